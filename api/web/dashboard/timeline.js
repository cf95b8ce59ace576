// The life of one agent, oldest first; it grows at its end while one looks.

import { span, timeOfDay, wholeDate } from "./clock.js";
import { path } from "./client.js";
import { button, el, icon, say, show } from "./dom.js";
import { tell } from "./words.js";

const MOST = 2000;

export class Timeline {
  #last = 0;
  #shown = new Set();
  #commands = null;
  #reading = null;

  constructor(store, agentId, mine) {
    this.store = store;
    this.agentId = agentId;
    this.mine = mine;
    this.list = el("ol", { class: "timeline" });
    this.note = el("p", { class: "faint", role: "status" }, "Reading …");
    this.again = button("Try again", () => this.load());
    this.again.hidden = true;
    this.node = el("section", { "aria-labelledby": "life" }, el("h3", { id: "life" }, "Its life"), this.list, this.note, this.again);
  }

  /** Read what is missing. Called again while it reads, it reads once more afterwards. */
  async load() {
    if (this.#reading) {
      this.#reading.again = true;
      return;
    }
    this.#reading = { again: true };
    try {
      while (this.#reading.again) {
        this.#reading.again = false;
        const { items, more } = await this.store.client.all(path`api/agents/${this.agentId}/events`, MOST);
        for (const event of items) this.#add(event);
        show(this.note, more);
        if (more) say(this.note, "This is a long life: what came later is not shown here. berth agents events has all of it.");
      }
      show(this.again, false);
    } catch (failure) {
      show(this.note, true);
      say(this.note, failure.message);
      show(this.again, true);
    } finally {
      this.#reading = null;
    }
  }

  /** An event of the live stream. */
  hear(event) {
    if (event.agentId !== this.agentId || !event.seq) return;
    if (event.seq === this.#last + 1 && !this.#reading) this.#add(event);
    else if (event.seq > this.#last) this.load();
  }

  #add(event) {
    if (this.#shown.has(event.seq)) return;
    this.#shown.add(event.seq);
    this.#last = Math.max(this.#last, event.seq);
    if (event.kind === "command.executed" && this.#commands) return this.#gather(event);
    const item = this.#item(event);
    this.#commands = event.kind === "command.executed" ? { ...item, count: 1 } : null;
    this.list.append(item.node);
  }

  /** Commands in a row share a line, or a busy agent's life would be nothing else. */
  #gather(event) {
    const { title, text } = tell(event, timeOfDay, this.mine);
    const commands = this.#commands;
    commands.count += 1;
    say(commands.title, `${commands.count} commands, the last: ${title.replace(/^Command /, "")}`);
    say(commands.text, text);
    show(commands.text, Boolean(text));
    commands.at.dateTime = event.at;
    commands.at.title = wholeDate(event.at);
    say(commands.at, timeOfDay(event.at));
  }

  #item(event) {
    const told = tell(event, timeOfDay, this.mine);
    const title = el("strong", {}, told.title);
    const text = el("span", { class: "text" }, told.text);
    text.hidden = !told.text;
    const at = el("time", { datetime: event.at, title: wholeDate(event.at) }, timeOfDay(event.at));
    const passed = this.before ? Date.parse(event.at) - this.before : 0;
    this.before = Date.parse(event.at);
    const gap = el("span", { class: "gap" }, passed >= 1000 ? `+${span(passed)}` : "");
    const when = el("span", { class: "when" }, gap, at);
    const node = el("li", { "data-shape": told.shape }, icon(told.shape), el("div", {}, title, text), when);
    return { node, title, text, at };
  }
}
