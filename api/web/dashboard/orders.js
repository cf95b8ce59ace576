// What a person can order of an agent, each with its question where something would be lost.

import { path } from "./client.js";
import { ask, graceChoice } from "./dialogs.js";
import { el } from "./dom.js";
import { announce, attempt, tellShortly } from "./notices.js";
import { inGrace, WAITING } from "./words.js";
import { now } from "./clock.js";

const PENDING_TRIES = 60;

export class Orders {
  constructor(store) {
    this.store = store;
    this.client = store.client;
  }

  /**
   * Start an agent for a project, of the default template if none is named; `told` hears sentences while nobody has
   * decided yet. Raises `Failure`.
   */
  async start(projectId, told = () => {}, template = undefined) {
    const wish = template && { template };
    const key = { "Idempotency-Key": newKey() };
    for (let tries = 0; tries < PENDING_TRIES; tries += 1) {
      const answer = await this.client.post(path`api/projects/${projectId}/start-agent`, wish, key);
      if (answer.body.status !== "pending") return this.#started(answer, projectId);
      told("Asked for. No worker has answered yet; asking again …");
      await new Promise((done) => setTimeout(done, (answer.retryAfter ?? 2) * 1000));
    }
    told("Asked for, but nobody has answered yet. It appears here as soon as it is decided.");
    return null;
  }

  #started({ status, body }, projectId) {
    const agentId = body.agentId ?? body.agent.agentId;
    if (body.agent) this.store.put(body.agent);
    this.store.refresh(agentId);
    if (status === 200) tellShortly(`${projectId} has an agent already; here it is.`);
    return agentId;
  }

  async stop(agent) {
    if (WAITING.has(agent.state)) return this.#leaveQueue(agent);
    const running = agent.state === "running";
    const answer = await ask({
      title: `Stop the agent of ${agent.projectId}?`,
      text:
        "It saves cookies and logins, and for you a zip with what fits of its open task, downloads and files (50 MiB); " +
        "manifest.json in it names what does not. Open pages are gone.",
      fields: running ? [graceChoice()] : [],
      confirm: "Stop it",
      kind: "danger",
    });
    if (answer) await this.#order(agent, "stop", { graceSeconds: Number(answer.get("grace") ?? 0) });
  }

  async #leaveQueue(agent) {
    const place = agent.position ? `It gives up place ${agent.position} in line.` : "It gives up its place in line.";
    const answer = await ask({
      title: `Take ${agent.projectId} out of the queue?`,
      text: place,
      confirm: "Leave the queue",
      kind: "danger",
    });
    if (answer) await this.#order(agent, "stop", { graceSeconds: 0 });
  }

  stopNow = (agent) => this.#order(agent, "stop", { graceSeconds: 0 });

  async keep(agent) {
    if (await this.#order(agent, "keep")) announce(`${agent.projectId}: kept`);
  }

  async restart(agent) {
    const answer = await ask({
      title: `Restart the agent of ${agent.projectId}?`,
      text: "Its browser is closed and started anew, with its cookies and logins. Open pages are gone.",
      confirm: "Restart it",
    });
    if (answer) await this.#order(agent, "restart");
  }

  /** A new life after one that is over, of the same template. */
  async again(agent) {
    await attempt(async () => {
      const agentId = await this.start(agent.projectId, announce, agent.template);
      if (agentId) location.hash = path`#/agents/${agentId}`;
    });
  }

  /** An administrator ends someone else's. */
  async terminate(agent) {
    const reason = el("input", { name: "reason", maxlength: "200", autocomplete: "off", required: true });
    const force = el("label", {}, el("input", { type: "checkbox", name: "force" }), "Do not wait for it to save");
    const answer = await ask({
      title: `End the agent of ${agent.userId} for ${agent.projectId}?`,
      text: "Its user is told, and sees the reason.",
      fields: [el("label", { class: "field" }, "Reason", reason), graceChoice(), force],
      confirm: "End it",
      kind: "danger",
    });
    if (!answer) return;
    const body = { reason: answer.get("reason"), graceSeconds: Number(answer.get("grace")), force: answer.has("force") };
    await attempt(async () => {
      await this.client.post(path`api/admin/agents/${agent.agentId}/terminate`, body);
      tellShortly("Ordered. It is told to stop.");
    });
  }

  async #order(agent, order, body) {
    return attempt(async () => {
      try {
        const answer = await this.client.post(path`api/agents/${agent.agentId}/${order}`, body);
        if (answer.body?.agentId) this.store.put(answer.body);
      } finally {
        // Also after a refusal: the agent may have moved on, and the page shall say so.
        this.store.refresh(agent.agentId);
      }
    });
  }
}

/** Which orders make sense now. */
export function possible(agent, mine) {
  const grace = inGrace(agent, now());
  return {
    keep: mine && grace && agent.keepable,
    stop: mine && ["requested", "queued", "starting", "running", "restarting"].includes(agent.state),
    stopNow: mine && grace,
    restart: mine && ["starting", "running"].includes(agent.state),
    again: mine && ["failed", "terminated", "cancelled"].includes(agent.state),
    desktop: mine && ["running", "draining"].includes(agent.state),
    terminate: !mine && !["terminated", "cancelled", "failed"].includes(agent.state),
  };
}

function newKey() {
  // randomUUID is only there on secure addresses; a page on a plain one of the house's network has this.
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
