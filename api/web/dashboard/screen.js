// The agent's desktop inside this page: the viewer in a frame, opened with a ticket that works once.

import { path } from "./client.js";
import { busy, button, el, keepFocus, say, show } from "./dom.js";
import { attempt } from "./notices.js";

const TOLD = {
  view: "You watch; it does not notice.",
  control: "You and the agent share mouse and keyboard.",
};

export class Screen {
  #frame = null;

  constructor(store, agentId) {
    this.store = store;
    this.agentId = agentId;
    this.watch = button("Watch", () => busy(this.watch, () => this.#open("view")), "primary");
    this.steer = button("Take control", () => busy(this.steer, () => this.#open("control")));
    this.shut = button("Close the desktop", () => this.close());
    this.note = el("p", { class: "faint" });
    this.place = el("div", { class: "screen" });
    this.title = el("h3", { id: "desktop", tabindex: "-1" }, "Desktop");
    const buttons = el("span", { class: "actions" }, this.watch, this.steer, this.shut);
    this.head = el("div", { class: "head" }, this.title, buttons);
    this.node = el(
      "section",
      { "aria-labelledby": "desktop" },
      this.head,
      this.note,
      this.place,
    );
    this.heard = (event) => this.#hear(event);
    addEventListener("message", this.heard);
    this.close();
  }

  /** `can`: whether a desktop may be opened now; `why` not, else; `first`: nothing else is more urgent. */
  show(can, why, first) {
    const open = this.#frame !== null && !this.ended;
    this.watch.classList.toggle("primary", first && !open);
    say(this.watch, open ? "Only watch" : "Watch");
    keepFocus(this.head, this.#frame ? this.shut : this.title, () => {
      show(this.shut, this.#frame !== null);
      show(this.watch, can && !(open && this.mode === "view"));
      show(this.steer, can && !(open && this.mode === "control"));
    });
    if (open) say(this.note, TOLD[this.mode]);
    else say(this.note, can ? "See what it does, or take the mouse yourself." : why);
    if (!can && this.#frame && this.ended) this.close();
  }

  async #open(mode) {
    await attempt(async () => {
      const { body } = await this.#ask(mode);
      this.close();
      this.mode = mode;
      const url = new URL(body.url, document.baseURI);
      // Under whatever name this page was called: the answer knows only the public one.
      const here = `${url.pathname}${url.search}${url.hash}`;
      this.#frame = el("iframe", { src: here, title: "The agent's desktop", allow: "fullscreen; clipboard-read; clipboard-write" });
      this.place.append(this.#frame);
      show(this.place, true);
    });
    this.store.changed();
  }

  #hear(event) {
    if (event.origin !== location.origin || event.source !== this.#frame?.contentWindow) return;
    if (event.data?.source !== "berth.desktop") return;
    this.ended = event.data.state === "closed";
    if (event.data.state === "renewing") this.#renew();
    this.store.changed();
  }

  /** Its time is up: another ticket, if we may still have one. Without, the frame says what to do. */
  async #renew() {
    const frame = this.#frame;
    let ticket = null;
    await attempt(async () => {
      const { body } = await this.#ask(this.mode);
      ticket = new URLSearchParams(new URL(body.url, document.baseURI).hash.slice(1)).get("ticket");
    });
    if (frame === this.#frame) frame.contentWindow.postMessage({ source: "berth.dashboard", ticket }, location.origin);
  }

  #ask = (mode) => this.store.client.post(path`api/agents/${this.agentId}/desktop`, { mode });

  close() {
    this.#frame?.remove();
    this.#frame = null;
    this.mode = null;
    this.ended = false;
    show(this.place, false);
    this.store.changed();
  }

  stop() {
    removeEventListener("message", this.heard);
    this.#frame?.remove();
    this.#frame = null;
  }
}
