// Puts the page together: who is here, which view, and how true what is shown still is.

import { clock, left, now, tick, timeOfDay } from "./clock.js";
import { Client } from "./client.js";
import { ask } from "./dialogs.js";
import { el, say, show } from "./dom.js";
import { EveryonePage } from "./everyone.js";
import { login } from "./login.js";
import { MinePage } from "./mine.js";
import { announce, fail } from "./notices.js";
import { Orders } from "./orders.js";
import { claims, forget, ofAnother, remember, takeToken, token } from "./session.js";
import { Store } from "./store.js";
import { describe, inGrace, remedy } from "./words.js";

const part = (id) => document.getElementById(id);
const main = part("main");
const line = part("line");
const dot = el("span", { class: "dot", "aria-hidden": "true" });
const lineText = el("span");
line.append(dot, lineText);

let store = null;
let view = null;
let viewName = "";
let agentId = null;

function enter(because = "") {
  leave();
  const given = token();
  if (!given) return signIn(because);
  const client = new Client(given);
  client.addEventListener("refused", ({ detail }) => signOut(refusal(detail)));
  store = new Store(client, claims(given));
  const mine = store;
  let drawn = 0;
  mine.addEventListener("change", () => {
    // Many changes at once are drawn once.
    if (mine !== store || drawn) return;
    drawn = requestAnimationFrame(() => {
      drawn = 0;
      if (mine === store) draw();
    });
  });
  mine.addEventListener("moved", ({ detail }) => moved(mine, detail));
  for (const node of [line, part("account"), part("leave")]) show(node, true);
  main.replaceChildren(el("p", { class: "plain faint" }, "Asking for your agents …"));
  mine.reload().catch((failure) => {
    if (failure.status !== 401 && mine === store) stuck(failure);
  });
  mine.start();
  route();
}

const refusal = (failure) => `${failure.message} Get a fresh token and sign in again.`;

function leave() {
  store?.stop();
  view?.stop();
  store = view = null;
  viewName = "";
  for (const node of [line, part("account"), part("leave"), part("nav")]) show(node, false);
}

function signOut(because = "") {
  forget();
  enter(because);
}

function signIn(because) {
  document.title = "Berth";
  const form = login(because, () => enter());
  main.replaceChildren(form.node);
  form.focus();
}

/** A user whom Berth does not know, or an API that does not answer at all: say so where the agents would be. */
function stuck(failure) {
  if (view) return;
  main.replaceChildren(
    el("section", { class: "plain", role: "alert" }, el("h1", {}, failure.message), el("p", {}, remedy(failure))),
  );
}

function moved(from, { agent, before }) {
  if (from !== store || !store.mine(agent)) return;
  const words = describe(agent, now());
  announce(`${agent.projectId}: ${words.label}. ${words.what}`);
  if (agent.state === "failed" && before) fail({ message: `${agent.projectId} failed. ${words.what}`, action: "", code: "", fields: [] });
}

/** `#/`, `#/everyone`, `#/agents/ID`. */
function route() {
  if (!store) return;
  const [, name = "", id] = location.hash.replace(/^#/, "").split("/");
  const before = agentId;
  agentId = null;
  if (name === "agents" && id) {
    try {
      agentId = decodeURIComponent(id);
    } catch {
      agentId = id;
    }
  }
  const wanted = name === "everyone" && store.admin ? "everyone" : "mine";
  if (wanted !== viewName) {
    view?.stop();
    view = null;
    viewName = wanted;
  }
  draw();
  if (agentId && agentId !== before) {
    scrollTo(0, 0);
    view?.focusDetail();
  }
}

function draw() {
  if (!store) return;
  header();
  if (!store.loaded) return;
  if (!view) {
    view = viewName === "everyone" ? new EveryonePage(store) : new MinePage(store, new Orders(store));
    main.replaceChildren(view.node);
  }
  view.render(agentId);
}

/** What a person who looks at another tab should know: an agent of theirs is about to stop. */
function urgent() {
  const ending = store.list().filter((agent) => store.mine(agent) && inGrace(agent, now()));
  ending.sort((a, b) => a.deadlineAt.localeCompare(b.deadlineAt));
  return ending.length ? `${left(ending[0].deadlineAt)} ${ending[0].projectId} stops` : null;
}

const LINES = {
  connecting: () => "Connecting …",
  live: () => "Live",
  delayed: () => "Reconnecting; asking now and then",
  offline: () => (store.asOf ? `Offline; as it was at ${timeOfDay(new Date(store.asOf).toISOString())}` : "Offline"),
};

function header() {
  const how = store.line;
  line.dataset.line = how;
  say(lineText, LINES[how]());
  const { userId, tier } = store.account ?? { userId: store.userId };
  say(part("account"), store.admin ? `${userId} (administrator)` : userId);
  part("account").title = tier ? `Tier ${tier}` : "";
  show(part("nav"), store.admin);
  for (const link of part("nav").querySelectorAll("a")) {
    if (link.dataset.view === viewName) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const title = `${urgent() ?? (viewName === "everyone" ? "Everyone" : "My agents")} · Berth`;
  if (document.title !== title) document.title = title;
}

clock.addEventListener("tick", () => {
  if (!store) return;
  view?.tick?.();
  draw();
});
/**
 * A link may bring a token. One of another user is not taken unasked: whoever sent the link would see what is done here.
 * `stay` shows the page as it is without it.
 */
async function arrive(stay) {
  const given = takeToken();
  if (!given) return stay();
  if (ofAnother(given)) {
    stay();
    const [theirs, mine] = [given, token()].map((value) => String(claims(value).sub ?? "somebody else").slice(0, 80));
    const taken = await ask({
      title: `Sign in as ${theirs} instead of ${mine}?`,
      text: `The link that you followed has an access token of ${theirs}. What you do here afterwards is theirs, and they can see it.`,
      confirm: `Sign in as ${theirs}`,
      cancel: `Stay ${mine}`,
    });
    if (!taken) return;
  }
  remember(given);
  enter();
}

addEventListener("hashchange", () => arrive(route));
part("leave").addEventListener("click", () => signOut());
document.querySelector(".skip").addEventListener("click", (event) => {
  // The address after the hash is the page's own, so the link moves the focus by hand.
  event.preventDefault();
  main.focus();
});

arrive(enter);
setInterval(tick, 1000);
