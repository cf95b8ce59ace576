// States, reasons and events in words a person understands: what it is, and what would help.

/** `code` or half a sentence as a whole one. */
export function sentence(text) {
  const said = String(text ?? "").trim();
  if (!said) return "";
  const whole = said[0].toUpperCase() + said.slice(1);
  return /[.!?…]$/.test(whole) ? whole : `${whole}.`;
}

const spoken = (code) => sentence(String(code).replaceAll("_", " "));

const AGAIN = "You can start it again; cookies and logins are kept.";
const BY_ITSELF = "It starts by itself when its turn comes; you can close this page.";

const QUEUED = {
  insufficient_cluster_resources: ["The machines are busy right now.", "It starts by itself as soon as there is room."],
  disk_emergency: ["The machines' disks are nearly full.", "It starts by itself as soon as they are cleared."],
  no_suitable_node: ["Every place is taken.", BY_ITSELF],
  queue_ahead: ["Others come first.", BY_ITSELF],
  pool_paused: ["An administrator has paused this pool.", "It starts when the pool is opened again. Your administrator knows when."],
  too_many_starting: ["Many agents are starting right now.", "Yours starts by itself in a moment; you can close this page."],
  previous_ending: ["Your previous agent is still saving and closing.", "It starts as soon as that one is gone."],
};

const ENDED = {
  user_requested: ["You asked for it to stop.", ""],
  user_left_project: ["You left the project.", ""],
  inactivity: ["Nobody used it for a while.", AGAIN],
  subscription_expired: ["The subscription has ended.", "Renew it to start agents again."],
  resource_pressure: ["The machines ran short of memory.", AGAIN],
  maintenance: ["The machine it runs on is being serviced.", AGAIN],
  health_check_failed: ["It failed its health checks.", AGAIN],
  operator: ["An administrator stopped it.", "Your administrator knows why."],
  max_life: ["It reached the longest time an agent may live.", AGAIN],
  workflow_cancelled: ["An administrator cancelled it.", "Your administrator knows why."],
  workflow_gone: ["What looked after it was ended from outside.", AGAIN],
  restart: ["It is being restarted.", ""],
};

const BROKEN = {
  crash: ["Its browser or desktop crashed.", ""],
  out_of_memory: ["It needed more memory than it may have.", "Fewer open pages, or a larger agent, would help."],
  start_deadline: ["It was not usable in time.", ""],
  cannot_start: ["The machine cannot start it.", "Your administrator can run `berth doctor`, which says what is missing."],
  channel_lost: ["It stopped answering.", ""],
  health_check_failed: ["It failed its health checks.", ""],
  runtime_gone: ["It vanished from the machine it ran on.", ""],
  host_lost: ["It lost the machine it ran on.", ""],
  exited: ["It ended by itself.", ""],
  image_pull: ["Its image cannot be fetched.", "Your administrator has to correct the image's name, or the cluster's right to it."],
  unschedulable: ["No machine of the cluster can run it.", "Your administrator has to make the agent smaller, or add a machine."],
  cluster_quota_exceeded: ["The cluster's own quota is used up.", "Your administrator can raise it; it also frees up as other agents end."],
  evicted: ["It had to leave the machine it ran on.", ""],
  user_restart: ["You asked for a restart.", ""],
  migration: ["It moves to another machine.", "Cookies and logins are kept; open pages are closed."],
};

const REOPENED = {
  closed_by_user: ["Its last window was closed.", ""],
  crash: ["It had crashed; cookies and logins are kept.", ""],
  out_of_memory: ["It was killed for memory; fewer open pages, or a larger agent, would help.", ""],
};

const lookup = (table, reason, otherwise) => {
  if (!reason) return otherwise;
  // Not table[reason]: a reason named like something every object has must stay text.
  return Object.hasOwn(table, reason) ? table[reason] : [spoken(reason), otherwise[1]];
};

const theirs = (words, mine) =>
  mine ? words : words.map((text) => text.replace(/^You /, "Its user ").replace(/^Your /, "The "));

export const LIVING = new Set(["requested", "queued", "starting", "running", "restarting", "draining"]);
export const WAITING = new Set(["requested", "queued"]);
export const living = (agent) => LIVING.has(agent.state);

/** Whether a warning is running: its end is still to come. */
export const inGrace = (agent, at) =>
  agent.state === "draining" && Boolean(agent.deadlineAt) && Date.parse(agent.deadlineAt) > at;

/** How an agent is shown: `label` and `shape` of its chip, `tone`, `what` is happening and what would `help`. */
export function describe(agent, at, mine = true) {
  const [label, shape, tone, pair] = shown(agent, at);
  const [what, help] = theirs(pair, mine);
  return { label, shape, tone, what, help };
}

function shown(agent, at) {
  const { state, reason } = agent;
  switch (state) {
    case "requested":
      return ["Asked for", "wait", "wait", ["The request is being decided.", "This takes a moment."]];
    case "queued":
      return ["Waiting", "wait", "wait", lookup(QUEUED, reason, ["It is in line for a place.", BY_ITSELF])];
    case "starting":
      return ["Starting", "start", "start", ["Its desktop and browser are being started.", "This takes a few seconds."]];
    case "running":
      if (reason === "migration") return ["Moving soon", "ending", "warn", BROKEN.migration];
      return ["Running", "run", "run", ["Ready to use.", "Without activity it is stopped after a while, with a warning."]];
    case "restarting": {
      const [why, help] = lookup(BROKEN, reason, ["It is being started anew.", ""]);
      return ["Restarting", "restart", "start", [why, help || "It is being started anew by itself; cookies and logins are kept."]];
    }
    case "draining": {
      const [why, help] = lookup(ENDED, reason, ["It was told to stop.", ""]);
      if (!inGrace(agent, at)) return ["Stopping", "ending", "warn", [why, "It is saving its work and closing."]];
      return ["Stopping soon", "ending", "warn", [why, agent.keepable ? "Keep it to go on working, or let it stop." : help || AGAIN]];
    }
    case "terminated":
      return ["Stopped", "over", "over", lookup(ENDED, reason, ["It was stopped.", AGAIN])];
    case "cancelled":
      return ["Withdrawn", "withdrawn", "over", lookup(ENDED, reason, ["The request was withdrawn.", ""])];
    case "failed": {
      const [why, help] = lookup({ ...ENDED, ...BROKEN }, reason, ["It could not go on.", ""]);
      return ["Failed", "failed", "bad", [why, help || "Start it again; if it fails again, your administrator can help."]];
    }
    default:
      return [spoken(state).slice(0, -1), "note", "over", [reason ? spoken(reason) : "This page does not know this state yet.", "Reload the page."]];
  }
}

/** "about 12 min (8 to 16)": the wait as it was estimated. */
export function wait(agent) {
  const minutes = agent.estimatedWaitMinutes;
  if (minutes === null || minutes === undefined) return "";
  const about = minutes <= 1 ? "about a minute" : minutes < 90 ? `about ${minutes} min` : `about ${Math.round(minutes / 60)} h`;
  const range = agent.estimatedWait;
  return range && range.high > range.low && range.high < 90 ? `${about} (${range.low} to ${range.high})` : about;
}

/** What explain-start says of a start that would have to wait, as `what` and `help`; null of any other. */
export function foretell({ status, reason, place, helps }) {
  if (status !== "queued") return null;
  const [why, help] = lookup(QUEUED, reason, ["It would wait in line.", ""]);
  const better = helps.find((each) => each.place);
  return {
    what: place ? `${why} You would be number ${place.position} in line: ${wait(place)}.` : why,
    help: better ? `With the tier ${better.tier} you would be number ${better.place.position}: ${wait(better.place)}.` : help,
  };
}

const HELP = {
  upgrade_subscription: "Stop one of your agents first, or ask for a larger subscription.",
  renew_subscription: "Renew the subscription to start agents again.",
  retry_later: "Try again in a minute.",
  choose_smaller_template: "Choose a smaller template, or ask your administrator for a larger machine.",
  log_in: "Sign in again.",
  log_in_again: "Sign in again.",
};
const BY_CODE = {
  unreachable: "Is the network there? This page goes on trying.",
  not_found: "It may be gone, or the name may be misspelt.",
  unknown_user: "An administrator has to add you: `berth token USER` does.",
  forbidden: "An administrator can do this.",
  queue_full: "Try again in a minute.",
  too_many_requests: "Try again in a moment.",
  worker_silent: "The work is queued and goes on when a worker is back.",
  temporal_unavailable: "Try again in a moment; running agents are not touched.",
  workflow_gone: "Its end is written within a minute; then start it again.",
  database_unavailable: "Try again in a moment; running agents are not touched.",
  unavailable: "Try again in a moment.",
  internal: "Your administrator finds it in the log.",
  agent_not_ready: "Wait until it runs.",
  wrong_state: "This page shows its state as it is now.",
};

/** What would help against a failure, as a sentence; "" when nothing is known to. */
export function remedy(failure) {
  const fields = failure.fields.map((field) => `${field.where}: ${field.problem}`).join("; ");
  if (fields) return sentence(fields);
  if (Object.hasOwn(HELP, failure.action)) return HELP[failure.action];
  if (Object.hasOwn(BY_CODE, failure.code)) return BY_CODE[failure.code];
  return failure.action ? spoken(failure.action) : "";
}

const why = (event, ...tables) => {
  if (!event.reason) return "";
  for (const table of tables) if (Object.hasOwn(table, event.reason)) return table[event.reason][0];
  return spoken(event.reason);
};

const seconds = (value) => {
  const number = Number(value);
  if (!Number.isFinite(number)) return "";
  if (number < 60) return `${number < 10 ? Math.round(number * 10) / 10 : Math.round(number)} s`;
  const minutes = Math.round(number / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.round(minutes / 6) / 10} h`;
};

/** One event of a life: `title`, a line of `text` under it (or ""), and a `shape`. `clockTime` formats a moment. */
export function tell(event, clockTime, mine = true) {
  const [shape, title, text] = told(event, event.detail ?? {}, clockTime);
  return { shape, title, text: theirs([text], mine)[0] };
}

function told(event, detail, clockTime) {
  const more = sentence(typeof detail.detail === "string" ? detail.detail : "");
  const join = (...parts) => parts.filter(Boolean).join(" ");
  switch (event.kind) {
    case "agent.requested": return ["note", "Asked for", ""];
    case "agent.rejected": return ["failed", "Refused", join(why(event), more)];
    case "agent.queued": return ["wait", event.reason ? "Waiting in line" : "In line", why(event, QUEUED)];
    case "agent.admitted":
      return ["note", "Got a place", detail.waitedSeconds > 0.5 ? `After ${seconds(detail.waitedSeconds)} of waiting.` : ""];
    case "agent.starting": return ["start", "Starting", detail.attempt > 1 ? `Attempt ${detail.attempt}.` : ""];
    case "agent.ready": return ["run", "Ready to use", ""];
    case "agent.warning":
      if (event.reason === "migration") {
        return ["ending", "Warning", join(why(event, BROKEN), detail.deadlineAt ? `Moves at ${clockTime(detail.deadlineAt)}.` : "")];
      }
      return ["ending", "Warning", join(why(event, ENDED), detail.deadlineAt ? `Stops at ${clockTime(detail.deadlineAt)}.` : "")];
    case "agent.draining": return ["ending", "Stopping", join(why(event, ENDED), more)];
    case "agent.kept": return ["run", "Kept", "The warning was taken back."];
    case "agent.restarting":
      return ["restart", "Restarting", join(
        why(event, BROKEN),
        // Of one that a person asked for there is no more to say than that.
        event.reason === "user_restart" ? "" : more,
        detail.afterSeconds > 0 ? `After a pause of ${seconds(detail.afterSeconds)}.` : "",
      )];
    case "browser.reopened":
      return ["restart", "Browser opened again", join(why(event, REOPENED), event.reason === "crash" ? more : "")];
    case "agent.resized":
      return ["note", "Other limits", join(detail.after ? `${detail.after.cpu} cores, ${detail.after.memoryMib} MiB.` : "", more)];
    case "agent.failed": return ["failed", "Failed", join(why(event, BROKEN, ENDED), more)];
    case "agent.evicted": return ["ending", "Had to make room", why(event, ENDED)];
    case "agent.cancelled": return ["withdrawn", "Withdrawn", join(why(event, ENDED), more)];
    case "agent.terminated":
      return ["over", "Stopped", join(why(event, ENDED), more, detail.usage?.seconds ? `Lived ${seconds(detail.usage.seconds)}.` : "")];
    case "command.executed": {
      const fault = detail.fault ? `failed: ${String(detail.fault).replaceAll("_", " ")}` : detail.status === "done" ? "" : String(detail.status ?? "");
      return ["note", `Command ${String(detail.command ?? "")}`.trim(), sentence(fault)];
    }
    case "notice.sent": return ["note", "Notice sent", more];
    default: return ["note", spoken(String(event.kind).replace(/^.*\./, "")).slice(0, -1), join(why(event), more)];
  }
}
