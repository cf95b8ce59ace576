// One pool: how full it is, where its size comes from, and the two things an administrator may change.

import { path } from "./client.js";
import { ask } from "./dialogs.js";
import { busy, button, el, say, show } from "./dom.js";
import { attempt, tellShortly } from "./notices.js";

const FROM = {
  operator: "set by an administrator",
  settings: "set in the settings",
  cluster: "measured: what the machines have room for",
  unknown: "not measured yet",
};

export class PoolCard {
  constructor(client) {
    this.client = client;
    this.name = el("h3");
    this.numbers = el("p", { class: "numbers" });
    this.meter = el("meter", { min: "0", "aria-label": "Places taken" });
    this.state = el("p", { class: "what" });
    this.source = el("p", { class: "faint" });
    this.uses = el("p", { class: "faint" });
    this.pause = button("Pause", () => busy(this.pause, () => this.#change({ paused: !this.pool.paused })));
    this.size = button("Change capacity …", () => this.#resize());
    this.node = el("li", { class: "pool panel" }, this.name, this.numbers, this.meter, this.state, this.source, this.uses,
      el("div", { class: "actions" }, this.size, this.pause));
  }

  show(pool) {
    this.pool = pool;
    say(this.name, pool.pool);
    say(this.numbers, `${pool.holders} of ${pool.capacity ?? "?"} taken, ${pool.waiting} waiting${starting(pool)}`);
    this.meter.max = Math.max(1, pool.capacity ?? pool.holders);
    this.meter.value = pool.holders;
    say(this.state, standing(pool));
    say(this.source, `Runtime ${pool.runtime}, capacity ${FROM[pool.capacityFrom] ?? pool.capacityFrom}`);
    const uses = pool.measures.filter((each) => each.value !== null);
    say(this.uses, uses.length ? `In use, and at most: ${uses.map(measured).join(", ")}` : "");
    show(this.uses, uses.length > 0);
    say(this.pause, pool.paused ? "Open again" : "Pause");
    show(this.state, true);
  }

  async #resize() {
    const field = el("input", { name: "capacity", type: "number", min: "0", max: "1000000", step: "1", inputmode: "numeric",
      value: this.pool.capacity ?? "", placeholder: "as the settings say" });
    const answer = await ask({
      title: `Capacity of the pool ${this.pool.pool}`,
      text: "Agents that run are not stopped when it shrinks. Left empty, the settings decide again.",
      fields: [el("label", { class: "field" }, "Agents at once", field)],
      confirm: "Set",
    });
    if (!answer) return;
    const given = String(answer.get("capacity")).trim();
    await this.#change({ capacity: given === "" ? null : Number(given) });
  }

  async #change(body) {
    await attempt(async () => {
      const answer = await this.client.put(path`api/admin/pools/${this.pool.pool}`, body);
      this.show(answer.body);
      tellShortly(`Pool ${this.pool.pool}: changed.`);
    });
  }
}

const NAMES = { cpu: "CPU", memory: "memory", disk: "disk", network: "network" };

/** "memory 93 of 90 %": what is in use, and how much of it shuts the door. */
function measured({ measure, value, limit }) {
  const unit = measure === "network" ? " Mbit/s" : " %";
  return `${NAMES[measure] ?? measure} ${Math.round(value)}${limit === null ? "" : ` of ${limit}`}${unit}`;
}

/** How many start, where a limit bounds that. */
const starting = (pool) => (pool.maxStarting === null ? "" : `, ${pool.starting} of at most ${pool.maxStarting} starting`);

function standing(pool) {
  if (pool.paused) return "Paused: nobody is let in. Agents that run go on.";
  if (pool.choked) {
    const over = pool.measures.filter((each) => each.over).map(measured).join(", ");
    return `The machines are over their limits${over && ` (${over})`}: nobody is let in until they recover.`;
  }
  if (pool.refused) return "The last agent found no machine with room: the next is let in when something comes free.";
  if (pool.capacity === null) return "Nobody has measured the machines lately: nobody is let in until somebody does.";
  if (pool.overCapacity > 0) return `${pool.overCapacity} over the capacity: they go on, and nobody is let in before they end.`;
  if (pool.holders >= pool.capacity) return pool.waiting ? "Full: the next is let in when one ends." : "Full.";
  if (pool.clusterFree === null) return "Nobody has measured the machines lately: nobody is let in until somebody does.";
  if (pool.clusterFree <= 0) return "The machines are full.";
  if (pool.waiting && pool.startsLeft === 0) {
    return "As many agents are starting as may at once: the next is let in when one of them is usable.";
  }
  return `Open: room for ${Math.min(pool.capacity - pool.holders, pool.clusterFree)} more.`;
}
