// What the page knows of one user: the account, the agents, and whether all of that is of now.

import { path } from "./client.js";
import { Feed } from "./feed.js";
import { LIVING, living, WAITING } from "./words.js";

const RECENT = 50;
const AGAIN = 2000;

/** Dispatches `change` when anything shown may differ, `moved` (detail: agent, before) when a state changed. */
export class Store extends EventTarget {
  #refreshing = new Map();
  #settled = false;
  #over = false;
  #turn = 0;
  // Which turn an agent was last read in: a list that was asked for before must not overwrite it.
  #read = new Map();
  agents = new Map();
  account = null;
  loaded = false;
  more = false;
  asOf = null;

  constructor(client, claims) {
    super();
    this.client = client;
    this.userId = claims.sub ?? "";
    this.admin = claims.role === "admin";
    this.feed = new Feed(client);
    this.feed.addEventListener("state", () => this.#lineChanged());
    this.feed.addEventListener("open", () => this.#catchUp());
    this.feed.addEventListener("event", ({ detail }) => this.#heard(detail));
  }

  start() {
    this.feed.start();
  }

  stop() {
    this.#over = true;
    this.feed.stop();
  }

  /** "live"; "delayed": asked for now and then; "offline": what is shown is as old as `asOf`; "connecting". */
  get line() {
    if (this.feed.state === "live" && this.loaded && !this.failed) return "live";
    if (this.failed) return "offline";
    return this.loaded && this.feed.state === "broken" ? "delayed" : "connecting";
  }

  list() {
    // Living ones first, then the newest.
    const rank = (agent) => (living(agent) ? 0 : 1);
    return [...this.agents.values()].sort((a, b) => rank(a) - rank(b) || b.createdAt.localeCompare(a.createdAt));
  }

  mine = (agent) => agent.userId === this.userId;

  /** Read account and agents anew; raises `Failure`. */
  async reload() {
    const turn = (this.#turn += 1);
    try {
      const [account, recent] = await Promise.all([
        this.client.get("api/me"),
        this.client.get(`api/agents?limit=${RECENT}`),
      ]);
      const found = recent.body.items;
      this.more = Boolean(recent.body.nextCursor);
      if (this.more) {
        // Old lives that go on may lie behind many short ones.
        const lists = await Promise.all([...LIVING].map((state) => this.client.all(`api/agents?state=${state}`)));
        found.push(...lists.flatMap((list) => list.items));
      }
      const before = this.agents;
      this.agents = new Map([...before].filter(([id]) => this.#read.get(id) > turn));
      for (const agent of found) {
        if (!this.agents.has(agent.agentId)) this.#put(agent, before.get(agent.agentId));
      }
      this.account = account.body;
      this.admin = account.body.role === "admin";
      this.loaded = true;
      this.failed = null;
      this.asOf = Date.now();
      // What is read first is the state of things, not news.
      this.#settled = true;
    } catch (failure) {
      this.failed = failure;
      throw failure;
    } finally {
      this.changed();
    }
  }

  /** Put an agent that an order answered with, or that was read. */
  put(agent) {
    this.#read.set(agent.agentId, (this.#turn += 1));
    this.#put(agent, this.agents.get(agent.agentId));
    this.changed();
  }

  changed() {
    this.dispatchEvent(new Event("change"));
  }

  #put(agent, before) {
    // An estimate pushed by the socket has a range, which the row lacks.
    if (before?.estimatedWait && before.estimatedWaitMinutes === agent.estimatedWaitMinutes) {
      agent.estimatedWait = before.estimatedWait;
    }
    // What an order answers with does not tell of it.
    agent.savedWork ??= before?.savedWork;
    this.agents.set(agent.agentId, agent);
    if (this.#settled && before?.state !== agent.state) {
      this.dispatchEvent(new CustomEvent("moved", { detail: { agent, before } }));
    }
  }

  /** Read everything after the socket opened, as often as it takes: from now on only news will come. */
  async #catchUp() {
    try {
      await this.reload();
    } catch (failure) {
      if (failure.status === 401) return;
      setTimeout(() => this.feed.state === "live" && !this.#over && this.#catchUp(), AGAIN);
    }
  }

  #lineChanged() {
    // While there is no socket, each of its attempts also asks, so that the page is never older than it says.
    if (this.feed.state === "broken") this.reload().catch(() => {});
    this.changed();
  }

  #heard(event) {
    this.asOf = Date.now();
    this.dispatchEvent(new CustomEvent("event", { detail: event }));
    if (!event.agentId) return;
    const agent = this.agents.get(event.agentId);
    if (event.kind === "agent.position_changed") {
      // An answer that is still awaited may have been written before: its place would be the older one.
      const running = this.#refreshing.get(event.agentId);
      if (running) running.place = event.detail;
      if (agent && WAITING.has(agent.state)) this.put({ ...agent, ...event.detail });
      else this.refresh(event.agentId);
    } else if (event.kind !== "command.executed") {
      this.refresh(event.agentId);
    }
  }

  /** Read one agent anew, one question at a time each: an older answer never overtakes a newer one. */
  async refresh(agentId) {
    const running = this.#refreshing.get(agentId);
    if (running) {
      running.again = true;
      return;
    }
    const mark = { again: true };
    this.#refreshing.set(agentId, mark);
    try {
      // Nothing is awaited between the last look at `again` and the end, or a wish in between would be lost.
      while (mark.again) {
        mark.again = false;
        mark.place = null;
        const { body } = await this.client.get(path`api/agents/${agentId}`);
        this.put(WAITING.has(body.state) ? { ...body, ...mark.place } : body);
        this.account = (await this.client.get("api/me")).body;
      }
    } catch (failure) {
      if (failure.status === 404) this.agents.delete(agentId);
      else if (failure.status !== 401) setTimeout(() => this.#over || this.refresh(agentId), AGAIN);
    } finally {
      this.#refreshing.delete(agentId);
      this.changed();
    }
  }
}
