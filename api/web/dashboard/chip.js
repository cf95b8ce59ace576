// A state as a shape and a word; colour only repeats them.

import { el, icon, say, turn } from "./dom.js";

export class Chip {
  constructor() {
    this.shape = icon("note");
    this.word = el("span");
    this.node = el("span", { class: "chip" }, this.shape, this.word);
  }

  show({ label, shape, tone }) {
    turn(this.shape, shape);
    say(this.word, label);
    if (this.node.dataset.tone !== tone) this.node.dataset.tone = tone;
  }
}
