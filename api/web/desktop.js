// The agent's desktop. The ticket comes behind the hash, is used once, and does not stay in the address.
// A desktop is shown for a while only; then the dashboard that frames this page gives it another ticket.
import RFB from "/static/novnc/core/rfb.js";

const PROTOCOL = "berth.desktop";
// The server ends each socket after a while, so that whoever looks on has to be somebody still.
const RENEW = 4408;
// Longer than the dashboard waits for an answer.
const PATIENCE = 30_000;
const WORDS = {
  4408: ["This desktop's time is up", "A desktop is shown for an hour at a time. Open it again from your agent: nothing in it was changed, and what you were doing is still there."],
  4401: ["This link no longer works", "A desktop link works once, and for a few minutes only. Open the desktop again from your agent."],
  4410: ["The agent has ended", "This desktop belonged to an agent that has stopped or was started anew."],
  4413: ["The connection is too slow", "The picture could not be sent fast enough. Open the desktop again from your agent."],
  1013: ["The desktop cannot be reached", "The agent's screen does not answer right now. Open the desktop again in a moment."],
};
const LOST = ["The connection is lost", "Open the desktop again from your agent; nothing in it was changed."];

const part = (id) => document.getElementById(id);
const given = new URLSearchParams(location.hash.slice(1));
const framed = window.parent !== window;
const control = given.get("mode") === "control";
history.replaceState(null, "", location.pathname);
let rfb = null;
let awaited = 0;

// The dashboard that frames this page may want to know.
function show(state, words) {
  document.body.dataset.state = state;
  part("status").textContent = words;
  if (framed) window.parent.postMessage({ source: "berth.desktop", state }, location.origin);
}

function end(code) {
  awaited = 0;
  const [title, text] = WORDS[code] ?? LOST;
  part("title").textContent = title;
  part("text").textContent = text;
  part("notice").hidden = false;
  part("paste").hidden = true;
  part("full").hidden = true;
  show("closed", "Closed");
}

/** The picture stays where it was while another ticket is asked for. */
function renew() {
  const seen = part("screen").querySelector("canvas");
  if (seen?.width) {
    const held = part("still");
    [held.width, held.height] = [seen.width, seen.height];
    held.getContext("2d").drawImage(seen, 0, 0);
    held.hidden = false;
  }
  awaited = setTimeout(() => end(RENEW), PATIENCE);
  show("renewing", "Connecting");
}

addEventListener("message", ({ data, origin, source }) => {
  if (!awaited || origin !== location.origin || source !== window.parent || data?.source !== "berth.dashboard") return;
  clearTimeout(awaited);
  awaited = 0;
  if (data.ticket) open(data.ticket);
  else end(RENEW);
});

function open(ticket) {
  const address = new URL("ws", location.href);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  address.hash = "";
  const socket = new WebSocket(address, [PROTOCOL, `ticket.${ticket}`]);
  // Before noVNC hears of it and takes its picture away.
  socket.addEventListener("close", ({ code }) => (framed && code === RENEW ? renew() : end(code)));
  const again = rfb !== null;
  rfb = new RFB(part("screen"), socket, { shared: true });
  rfb.viewOnly = !control; // the agent's side enforces it, this only spares useless messages
  rfb.scaleViewport = true;
  rfb.background = "transparent";
  rfb.addEventListener("connect", () => {
    show("open", "Connected");
    part("paste").hidden = !control;
    // By then the new picture lies over it, unless the desktop has another size now.
    setTimeout(() => (part("still").hidden = true), 1000);
    // Who went on elsewhere in the dashboard keeps the focus there.
    if (control && (!again || document.hasFocus())) rfb.focus();
  });
  rfb.addEventListener("clipboard", (event) => {
    if (control) navigator.clipboard?.writeText(event.detail.text).catch(() => {});
  });
}

part("paste").addEventListener("click", async () => {
  try {
    rfb.clipboardPasteFrom(await navigator.clipboard.readText());
    part("status").textContent = "Clipboard sent";
  } catch {
    part("status").textContent = "The browser does not share its clipboard";
  }
  rfb.focus();
});

part("mode").textContent = control ? "control" : "view only";
part("mode").hidden = false;
part("full").addEventListener("click", () =>
  document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen(),
);
if (given.get("ticket")) open(given.get("ticket"));
else end(4401);
