// For administrators: pools and what they hold, who waits, and everyone's agents.

import { live, now } from "./clock.js";
import { Chip } from "./chip.js";
import { path } from "./client.js";
import { arrange, button, busy, el, say, show } from "./dom.js";
import { PoolCard } from "./pool.js";
import { since } from "./card.js";
import { attempt } from "./notices.js";
import { describe, LIVING, sentence, wait, WAITING } from "./words.js";

const EVERY = 3;
const PAGE = 50;
const STATES = ["starting", "running", "restarting", "draining", "queued", "failed", "terminated", "cancelled"];

export class EveryonePage {
  #rows = new Map();
  #waiting = new Map();
  #pools = new Map();
  #seconds = 0;
  #reading = false;
  #agents = [];
  #queue = [];
  #cursor = null;
  #loaded = false;

  constructor(store) {
    this.store = store;
    this.client = store.client;
    this.pools = el("ul", { class: "pools", "aria-label": "Pools" });
    this.queue = el("tbody");
    this.nobody = el("p", { class: "empty" }, "Nobody waits.");
    this.line = table("Queue", ["Place", "User", "Project", "Pool", "Why", "Estimate", "Asked"], this.queue);
    this.rows = el("tbody");
    this.table = table("Agents", ["State", "User", "Project", "Pool", "Why", "Since"], this.rows);
    this.none = el("p", { class: "empty" }, "No agent matches.");
    this.more = button("Show older ones", () => busy(this.more, () => attempt(() => this.#older())));
    this.state = el("select", { id: "state" }, el("option", { value: "living" }, "Living"), el("option", { value: "" }, "All"),
      ...STATES.map((state) => el("option", { value: state }, describe({ state }, 0).label)));
    this.user = el("input", { id: "user", maxlength: "256", autocomplete: "off", spellcheck: "false" });
    const filter = el("form", { class: "filter", "aria-label": "Filter" },
      el("label", { for: "state" }, "State"), this.state, el("label", { for: "user" }, "User"), this.user,
      el("button", { type: "submit" }, "Show"));
    filter.addEventListener("submit", (event) => {
      event.preventDefault();
      attempt(() => this.#read());
    });
    this.state.addEventListener("change", () => attempt(() => this.#read()));
    this.trouble = el("p", { class: "answer", role: "alert" });
    this.trouble.hidden = true;
    this.node = el("div", { class: "everyone" },
      el("h1", {}, "Everyone"), this.trouble,
      el("section", { "aria-labelledby": "pools-title" }, el("h2", { id: "pools-title" }, "Pools"), this.pools),
      el("section", { "aria-labelledby": "queue-title" }, el("h2", { id: "queue-title" }, "Queue"), this.nobody, this.line),
      el("section", { "aria-labelledby": "all-title" }, el("h2", { id: "all-title" }, "Agents"), filter, this.none, this.table,
        el("div", { class: "actions" }, this.more)));
    this.#read().catch((failure) => this.#tell(failure));
  }

  stop() {}

  focusDetail() {}

  tick() {
    this.#seconds += 1;
    if (this.#seconds % EVERY === 0 && !document.hidden) this.#read().catch((failure) => this.#tell(failure));
  }

  #tell(failure) {
    if (failure.status === undefined) throw failure;
    show(this.trouble, true);
    say(this.trouble, `${failure.message} What you see is not of now.`);
  }

  #where(extra = {}) {
    const user = this.user.value.trim();
    return new URLSearchParams({ ...(user ? { userId: user } : {}), ...extra });
  }

  async #read() {
    if (this.#reading) return;
    this.#reading = true;
    try {
      const chosen = this.state.value;
      const [pools, queue, ...lists] = await Promise.all([
        this.client.get("api/admin/pools"),
        this.client.all("api/admin/agents?state=queued", 200),
        ...(chosen === "living"
          ? [...LIVING].map((state) => this.client.get(`api/admin/agents?${this.#where({ state, limit: "200" })}`))
          : [this.client.get(`api/admin/agents?${this.#where({ ...(chosen ? { state: chosen } : {}), limit: String(this.#kept()) })}`)]),
      ]);
      if (chosen !== this.state.value) this.#seconds = EVERY - 1;
      this.#agents = lists.flatMap((list) => list.body.items);
      this.#cursor = chosen === "living" ? null : lists[0].body.nextCursor;
      this.#queue = queue.items;
      this.#showPools(pools.body.items);
      this.#loaded = true;
      show(this.trouble, false);
    } finally {
      this.#reading = false;
      this.render();
    }
  }

  /** How many are asked for: what was opened stays open, as far as one answer goes. */
  #kept() {
    return Math.min(200, Math.max(PAGE, this.#agents.length));
  }

  async #older() {
    const chosen = this.state.value;
    const { body } = await this.client.get(
      `api/admin/agents?${this.#where({ ...(chosen ? { state: chosen } : {}), limit: String(PAGE), cursor: this.#cursor })}`);
    this.#agents.push(...body.items);
    this.#cursor = body.nextCursor;
    this.render();
  }

  #showPools(pools) {
    const nodes = pools.map((pool) => {
      if (!this.#pools.has(pool.pool)) this.#pools.set(pool.pool, new PoolCard(this.client));
      const card = this.#pools.get(pool.pool);
      card.show(pool);
      return card.node;
    });
    arrange(this.pools, nodes);
  }

  render() {
    const at = now();
    const agents = [...this.#agents].sort((a, b) => b.createdAt.localeCompare(a.createdAt) || a.agentId.localeCompare(b.agentId));
    arrange(this.rows, agents.map((agent) => this.#row(agent, at)));
    const queue = this.#queue.filter((agent) => WAITING.has(agent.state));
    queue.sort((a, b) => a.pool.localeCompare(b.pool) || (a.position ?? 1e9) - (b.position ?? 1e9));
    arrange(this.queue, queue.map((agent) => this.#place(agent, at)));
    show(this.line, queue.length > 0);
    show(this.nobody, this.#loaded && queue.length === 0);
    show(this.table, agents.length > 0);
    show(this.none, this.#loaded && agents.length === 0);
    show(this.more, Boolean(this.#cursor));
    for (const kept of [this.#rows, this.#waiting]) {
      for (const [id, row] of kept) if (!row.node.isConnected) kept.delete(id);
    }
  }

  #row(agent, at) {
    let row = this.#rows.get(agent.agentId);
    if (!row) {
      row = { chip: new Chip(), why: el("span"), since: el("time") };
      row.node = el("tr", { "data-agent": agent.agentId }, cell("State", row.chip.node), cell("User", agent.userId),
        cell("Project", link(agent)), cell("Pool", agent.pool), cell("Why", row.why), cell("Since", row.since));
      this.#rows.set(agent.agentId, row);
    }
    const words = describe(agent, at, this.store.mine(agent));
    row.chip.show(words);
    say(row.why, words.what);
    const [, from, kind] = since(agent);
    live(row.since, from, kind);
    return row.node;
  }

  #place(agent, at) {
    let row = this.#waiting.get(agent.agentId);
    if (!row) {
      row = { place: el("strong"), why: el("span"), wait: el("span"), asked: el("time") };
      row.node = el("tr", { "data-agent": agent.agentId }, cell("Place", row.place), cell("User", agent.userId),
        cell("Project", link(agent)), cell("Pool", agent.pool), cell("Why", row.why), cell("Estimate", row.wait), cell("Asked", row.asked));
      this.#waiting.set(agent.agentId, row);
    }
    say(row.place, String(agent.position ?? "…"));
    say(row.why, describe(agent, at, this.store.mine(agent)).what);
    say(row.wait, sentence(wait(agent)));
    live(row.asked, agent.createdAt);
    return row.node;
  }
}

const link = (agent) => el("a", { href: path`#/agents/${agent.agentId}` }, agent.projectId);

const cell = (name, content) => el("td", { "data-label": name }, content);

function table(name, columns, body) {
  const head = el("tr", {}, ...columns.map((column) => el("th", { scope: "col" }, column)));
  return el("table", { "aria-label": name }, el("thead", {}, head), body);
}
