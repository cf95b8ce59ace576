// One agent in the list: what it is doing, since when, and the order that is most likely wanted.

import { left, live, now } from "./clock.js";
import { Chip } from "./chip.js";
import { path } from "./client.js";
import { busy, button, el, keepFocus, say, show } from "./dom.js";
import { possible } from "./orders.js";
import { describe, inGrace, wait } from "./words.js";

export class Card {
  constructor(agent, orders) {
    this.chip = new Chip();
    this.link = el("a", { href: path`#/agents/${agent.agentId}` }, agent.projectId);
    this.line = el("span");
    this.how = el("span");
    this.since = el("time");
    this.keep = button("Keep it", () => busy(this.keep, () => orders.keep(this.agent)), "primary");
    this.stop = button("Stop", () => busy(this.stop, () => orders.stop(this.agent)));
    this.leave = button("Leave the queue", () => busy(this.leave, () => orders.stop(this.agent)));
    this.node = el(
      "li",
      { class: "card", "data-agent": agent.agentId },
      el("div", { class: "head" }, el("h2", {}, this.link), this.chip.node),
      el("p", { class: "what" }, this.line),
      el("div", { class: "foot" },
        el("span", { class: "faint" }, this.how, " ", this.since),
        el("span", { class: "actions" }, this.keep, this.leave, this.stop)),
    );
  }

  show(agent, chosen) {
    this.agent = agent;
    const words = describe(agent, now());
    this.chip.show(words);
    const extra = agent.state === "queued" && agent.position ? `Place ${agent.position}, ${wait(agent)}. ` : "";
    say(this.line, inGrace(agent, now()) ? `Stops in ${left(agent.deadlineAt)}. ${words.what}` : `${extra}${words.what}`);
    const [how, from, kind] = since(agent);
    say(this.how, how);
    live(this.since, from, kind);
    const can = possible(agent, true);
    keepFocus(this.node, this.link, () => {
      show(this.keep, can.keep);
      show(this.leave, can.stop && agent.state === "queued");
      show(this.stop, can.stop && agent.state !== "queued");
    });
    if (chosen) this.link.setAttribute("aria-current", "true");
    else this.link.removeAttribute("aria-current");
  }
}

/** Since when the agent is as it is, as far as its row says: words, the moment, and how `live` tells it. */
export function since(agent) {
  if (agent.endedAt) return ["Ended", agent.endedAt, "ago"];
  const started = agent.startedAt ?? agent.createdAt;
  switch (agent.state) {
    case "running": return ["Running for", agent.readyAt ?? started, "span"];
    case "starting": return ["Starting for", started, "span"];
    case "draining":
    case "restarting": return ["Alive for", started, "span"];
    default: return ["Waiting for", agent.createdAt, "span"];
  }
}
