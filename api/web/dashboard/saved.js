// What an agent left to its user each time it was stopped: open task, downloads and files, as one file to keep.

import { path } from "./client.js";
import { arrange, busy, button, el, show } from "./dom.js";
import { attempt } from "./notices.js";

const FORGET_AFTER = 60_000;
const WHAT =
  "Saved when it was told to stop: what fitted of its open task, downloads and files (50 MiB). " +
  "In each zip, manifest.json names what did not.";

export class Saved {
  #lines = new Map();

  constructor(client) {
    this.client = client;
    this.list = el("ul", { class: "actions" });
    this.node = el("section", { class: "saved", "aria-label": "Saved work" }, el("p", {}, WHAT), this.list);
  }

  show(agent, mine) {
    const works = mine ? (agent.savedWork ?? []) : [];
    arrange(this.list, works.map((work) => this.#line(agent, work)));
    show(this.node, works.length > 0);
  }

  /** One and the same for the same work, so that what has the focus keeps it. */
  #line(agent, work) {
    if (!this.#lines.has(work.artefactId)) {
      const keep = button(`Save attempt ${work.attempt} to a file`, () => busy(keep, () => this.#keep(agent, work)));
      this.#lines.set(work.artefactId, el("li", {}, keep, " ", el("span", { class: "faint" }, size(work.bytes))));
    }
    return this.#lines.get(work.artefactId);
  }

  /** By way of a blob: a plain link could not carry the token. */
  #keep({ agentId }, work) {
    return attempt(async () => {
      const url = URL.createObjectURL(await this.client.bytes(path`api/artefacts/${work.artefactId}`));
      el("a", { href: url, download: `${agentId}-${work.attempt}.zip` }).click();
      setTimeout(() => URL.revokeObjectURL(url), FORGET_AFTER);
    });
  }
}

const size = (bytes) => (bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`);
