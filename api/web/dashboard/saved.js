// What an agent left to its user when it was stopped: open task, downloads and files, as one file to keep.

import { path } from "./client.js";
import { busy, button, el, say, show } from "./dom.js";
import { attempt } from "./notices.js";

const FORGET_AFTER = 60_000;

export class Saved {
  constructor(client) {
    this.client = client;
    this.agent = null;
    this.keep = button("Save to a file", () => busy(this.keep, () => this.#keep()));
    this.note = el("span", { class: "faint" });
    this.node = el("p", { class: "saved" }, "It saved its work for you. ", this.keep, " ", this.note);
  }

  show(agent, mine) {
    this.agent = agent;
    const work = mine && agent.endedAt && agent.savedWork;
    if (work) say(this.note, `open task, downloads and files, ${size(work.bytes)}`);
    show(this.node, Boolean(work));
  }

  /** By way of a blob: a plain link could not carry the token. */
  #keep() {
    return attempt(async () => {
      const { agentId, savedWork } = this.agent;
      const url = URL.createObjectURL(await this.client.bytes(path`api/artefacts/${savedWork.artefactId}`));
      el("a", { href: url, download: `${agentId}.zip` }).click();
      setTimeout(() => URL.revokeObjectURL(url), FORGET_AFTER);
    });
  }
}

const size = (bytes) => (bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`);
