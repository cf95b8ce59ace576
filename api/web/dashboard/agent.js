// One agent in full: where it stands, what can be done, its desktop, its life.

import { ago, left, now, timeOfDay, wholeDate } from "./clock.js";
import { Chip } from "./chip.js";
import { busy, button, el, keepFocus, say, show } from "./dom.js";
import { possible } from "./orders.js";
import { Saved } from "./saved.js";
import { Screen } from "./screen.js";
import { Timeline } from "./timeline.js";
import { describe, inGrace, wait, WAITING } from "./words.js";

export class AgentPage {
  constructor(store, orders, agent) {
    this.store = store;
    this.agent = agent;
    this.mine = store.mine(agent);
    this.chip = new Chip();
    this.title = el("h2", { tabindex: "-1" }, agent.projectId);
    this.what = el("p", { class: "what" });
    this.help = el("p", { class: "faint" });
    this.figure = el("strong", { class: "figure" });
    this.caption = el("span");
    this.counter = el("div", { class: "counter", role: "timer", "aria-live": "off" }, this.figure, this.caption);
    const order = (label, does, kind) => {
      const made = button(label, () => busy(made, () => does.call(orders, this.agent)), kind);
      return made;
    };
    this.keep = order("Keep it", orders.keep, "primary");
    this.again = order("Start again", orders.again, "primary");
    this.stop = order("Stop …", orders.stop);
    this.stopNow = order("Stop now", orders.stopNow);
    this.restart = order("Restart …", orders.restart);
    this.terminate = order("End it …", orders.terminate, "danger");
    this.actions = el("div", { class: "actions" }, this.keep, this.again, this.stopNow, this.restart, this.stop, this.terminate);
    this.facts = el("dl", { class: "facts" });
    this.saved = new Saved(store.client);
    this.screen = new Screen(store, agent.agentId);
    this.timeline = new Timeline(store, agent.agentId, this.mine);
    this.node = el(
      "article",
      { class: "agent panel", "aria-label": `Agent of ${agent.projectId}` },
      el("a", { class: "back", href: this.mine ? "#/" : "#/everyone" }, this.mine ? "All my agents" : "Everyone"),
      el("div", { class: "head" }, this.title, this.chip.node),
      el("div", { class: "standing" }, this.what, this.help, this.counter),
      this.actions,
      this.saved.node,
      this.screen.node,
      this.timeline.node,
      el("details", {}, el("summary", {}, "Details"), this.facts),
    );
    this.heard = ({ detail }) => this.timeline.hear(detail);
    store.addEventListener("event", this.heard);
    // A socket that was opened anew does not tell what it missed before it had told anything.
    this.opened = () => this.timeline.load();
    store.feed.addEventListener("open", this.opened);
    this.timeline.load();
  }

  stopListening() {
    this.store.removeEventListener("event", this.heard);
    this.store.feed.removeEventListener("open", this.opened);
    this.screen.stop();
  }

  show(agent) {
    // Without a live stream of its own (someone else's agent, or no socket) the life is read anew when it moved on.
    const moved = agent.state !== this.agent.state || agent.deadlineAt !== this.agent.deadlineAt;
    if (moved && !(this.mine && this.store.line === "live")) this.timeline.load();
    this.agent = agent;
    const words = describe(agent, now(), this.mine);
    this.chip.show(words);
    say(this.what, words.what);
    say(this.help, words.help);
    this.#count(agent);
    const can = possible(agent, this.mine);
    keepFocus(this.actions, this.title, () => {
      for (const name of ["keep", "again", "stop", "stopNow", "restart", "terminate"]) show(this[name], can[name]);
    });
    say(this.stop, WAITING.has(agent.state) ? "Leave the queue …" : "Stop …");
    show(this.screen.node, this.mine);
    this.saved.show(agent, this.mine);
    const none = agent.endedAt ? "It is over: there is no desktop any more." : "There is a desktop once it runs.";
    this.screen.show(can.desktop, none, agent.state === "running");
    this.#state(agent);
  }

  /** The number one waits for: seconds of grace, or the place in line. */
  #count(agent) {
    const grace = inGrace(agent, now());
    show(this.counter, grace || agent.state === "queued");
    this.counter.dataset.kind = grace ? "grace" : "place";
    if (grace) {
      say(this.figure, left(agent.deadlineAt));
      say(this.caption, `until it stops, at ${timeOfDay(agent.deadlineAt)}`);
    } else if (agent.state === "queued") {
      say(this.figure, agent.position ? String(agent.position) : "…");
      const place = agent.position === 1 ? "you are next" : "your place in line";
      say(this.caption, agent.position ? `${place}, ${wait(agent)}` : "finding your place in line");
    }
  }

  #state(agent) {
    const facts = {
      Project: agent.projectId,
      User: this.mine ? null : agent.userId,
      "Asked for": wholeDate(agent.createdAt),
      "Ready since": agent.readyAt && wholeDate(agent.readyAt),
      Ended: agent.endedAt && wholeDate(agent.endedAt),
      "Last activity": agent.endedAt ? null : ago(agent.lastActivityAt),
      Restarts: String(agent.restartCount),
      Template: agent.template,
      Pool: `${agent.pool} (${agent.runtime})`,
      "Agent id": agent.agentId,
    };
    const shown = Object.entries(facts).filter(([, value]) => value);
    const text = shown.map((fact) => fact.join("\n")).join("\n\n");
    if (this.factsText === text) return;
    this.factsText = text;
    this.facts.replaceChildren(...shown.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
  }
}

