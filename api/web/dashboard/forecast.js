// Before somebody asks for an agent that would have to wait: why, where in line, for how long, and what would help.

import { path } from "./client.js";
import { el, say, show } from "./dom.js";
import { foretell } from "./words.js";

const TYPING = 300;

export class Forecast {
  #asked = 0;
  #timer = 0;

  constructor(store) {
    this.store = store;
    this.what = el("strong");
    this.help = el("span");
    this.node = el("p", { id: "start-forecast", class: "answer", role: "status" }, this.what, " ", this.help);
    this.node.dataset.kind = "told";
    this.node.hidden = true;
  }

  /** Tell of a start for that project, as soon as nobody has asked for another one for a moment. */
  of(projectId) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#look(projectId), TYPING);
  }

  clear() {
    clearTimeout(this.#timer);
    this.#asked += 1;
    show(this.node, false);
  }

  async #look(projectId) {
    const mine = this.store.account?.projects ?? [];
    if (!mine.includes(projectId)) return this.clear();
    const turn = (this.#asked += 1);
    let words = null;
    try {
      words = foretell((await this.store.client.post(path`api/projects/${projectId}/explain-start`)).body);
    } catch (failure) {
      // It is a courtesy: the start itself says what is wrong.
      if (failure.status === undefined) throw failure;
    }
    if (turn !== this.#asked) return;
    show(this.node, words !== null);
    if (words === null) return;
    say(this.what, words.what);
    say(this.help, words.help);
  }
}
