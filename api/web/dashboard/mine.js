// My agents: the way to start one, those that live, those that are over.

import { AgentPage } from "./agent.js";
import { Card } from "./card.js";
import { arrange, el, say, show } from "./dom.js";
import { StartForm } from "./start.js";
import { path } from "./client.js";
import { living } from "./words.js";

const OVER_AT_FIRST = 5;
const LOOK_AGAIN = 3000;
const ASK_EVERY = 3;

const CHOOSE = "Choose an agent to see its life and its desktop.";
const NO_AGENT = "You have no agent yet. An agent is a browser of its own that works for one project; start one above, "
  + "then watch it or take the mouse.";
const NO_PROJECT = "You belong to no project yet. An administrator can add you: berth token USER --project NAME.";

export class MinePage {
  #cards = new Map();
  #page = null;
  // Ids that were looked for: true when there is no such agent, false while it is asked.
  #asked = new Map();
  #seconds = 0;

  constructor(store, orders) {
    this.store = store;
    this.orders = orders;
    this.form = new StartForm(store, orders);
    this.usage = el("p", { class: "faint usage" });
    this.current = el("ul", { class: "cards", "aria-label": "Living agents" });
    this.empty = el("p", { class: "empty" });
    this.past = el("ul", { class: "cards past", "aria-label": "Agents that are over" });
    this.summary = el("summary", {}, "Earlier");
    this.earlier = el("details", { class: "earlier" }, this.summary, this.past);
    this.note = el("p", { class: "faint" }, "Older ones: ", el("code", {}, "berth agents list"), " shows all.");
    this.earlier.append(this.note);
    this.earlier.addEventListener("toggle", () => store.changed());
    this.list = el("section", { class: "list", "aria-labelledby": "agents" },
      el("div", { class: "head" }, el("h1", { id: "agents" }, "My agents"), this.usage),
      this.form.node, this.empty, this.current, this.earlier);
    this.hint = el("p", { class: "hint" }, CHOOSE);
    this.detail = el("div", { class: "detail" }, this.hint);
    this.node = el("div", { class: "columns" }, this.list, this.detail);
  }

  stop() {
    this.#page?.stopListening();
  }

  /** Show the list and, beside it, the agent of that id; without one, where there is space, one that lives. */
  render(asked) {
    this.node.dataset.chosen = String(Boolean(asked));
    const agentId = asked ?? this.#likely();
    this.node.dataset.empty = String(!agentId && this.store.agents.size === 0);
    const { store } = this;
    this.form.render();
    const { used, limit, tier } = store.account ?? {};
    say(this.usage, store.account ? `${used} of ${limit} in use (${tier})` : "");
    const own = store.list().filter(store.mine);
    const current = own.filter(living);
    const past = own.filter((agent) => !living(agent));
    this.#fill(this.current, current, agentId);
    const all = this.earlier.open;
    this.#fill(this.past, all ? past : past.slice(0, OVER_AT_FIRST), agentId);
    say(this.summary, past.length ? `Earlier (${past.length}${store.more ? "+" : ""})` : "Earlier");
    show(this.earlier, past.length > 0);
    show(this.note, store.more);
    show(this.empty, store.loaded && current.length === 0);
    say(this.empty, past.length ? "No agent of yours lives right now. Start one above." : this.#firstWords());
    for (const [id] of this.#cards) if (!store.agents.has(id)) this.#cards.delete(id);
    this.#detail(agentId);
  }

  /** What stood there goes on standing there, so that nothing jumps. */
  #likely() {
    const shown = this.#page?.agent;
    if (shown && this.store.mine(shown) && this.store.agents.has(shown.agentId)) return shown.agentId;
    return this.store.list().find((agent) => this.store.mine(agent) && living(agent))?.agentId ?? null;
  }

  #firstWords() {
    const projects = this.store.account?.projects ?? [];
    if (projects.length === 0) return NO_PROJECT;
    return NO_AGENT;
  }

  #fill(list, agents, chosen) {
    const nodes = agents.map((agent) => {
      let card = this.#cards.get(agent.agentId);
      if (!card) this.#cards.set(agent.agentId, (card = new Card(agent, this.orders)));
      card.show(agent, agent.agentId === chosen);
      return card.node;
    });
    arrange(list, nodes);
    show(list, nodes.length > 0);
  }

  #detail(agentId) {
    const agent = agentId && this.store.agents.get(agentId);
    if (agentId !== this.#page?.agent.agentId) {
      this.#page?.stopListening();
      this.#page = agent ? new AgentPage(this.store, this.orders, agent) : null;
      this.detail.replaceChildren(this.#page?.node ?? this.hint);
    }
    if (agent) return this.#page.show(agent);
    if (agentId) this.#look(agentId);
    show(this.hint, Boolean(agentId) || this.store.agents.size > 0);
    if (!agentId) say(this.hint, CHOOSE);
    else say(this.hint, this.#asked.get(agentId) ? "There is no such agent, or it is not yours." : "Looking for this agent …");
  }

  /** An agent that is not among the recent ones: an old one, or, for administrators, someone else's. */
  async #look(agentId) {
    if (!this.store.loaded || this.#asked.has(agentId)) return;
    this.#asked.set(agentId, false);
    try {
      const { body } = await this.store.client.get(path`api/agents/${agentId}`);
      this.#asked.delete(agentId);
      this.store.put(body);
    } catch (failure) {
      if (failure.status === 404 || failure.status === 422) this.#asked.set(agentId, true);
      else setTimeout(() => this.#asked.delete(agentId), LOOK_AGAIN);
    }
    this.store.changed();
  }

  /** Once a second. Someone else's agent has no live stream here, so it is asked for now and then. */
  tick() {
    const agent = this.#page?.agent;
    this.#seconds += 1;
    if (!agent || this.store.mine(agent) || !living(agent) || document.hidden) return;
    if (this.#seconds % ASK_EVERY === 0) this.store.refresh(agent.agentId);
  }

  focusDetail() {
    this.#page?.title.focus({ preventScroll: true });
  }
}

