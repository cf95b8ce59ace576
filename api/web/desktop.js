// The agent's desktop. The ticket comes behind the hash, is used once, and does not stay in the address.
import RFB from "/static/novnc/core/rfb.js";

const PROTOCOL = "berth.desktop";
const WORDS = {
  4401: ["This link no longer works", "A desktop link works once, and for a few minutes only. Open the desktop again from your agent."],
  4410: ["The agent has ended", "This desktop belonged to an agent that has stopped or was started anew."],
  4413: ["The connection is too slow", "The picture could not be sent fast enough. Open the desktop again from your agent."],
  1013: ["The desktop cannot be reached", "The agent's screen does not answer right now. Open the desktop again in a moment."],
};
const LOST = ["The connection is lost", "Open the desktop again from your agent; nothing in it was changed."];

const part = (id) => document.getElementById(id);
const given = new URLSearchParams(location.hash.slice(1));
const ticket = given.get("ticket");
const control = given.get("mode") === "control";
history.replaceState(null, "", location.pathname);

// The dashboard that frames this page may want to know.
function show(state, words) {
  document.body.dataset.state = state;
  part("status").textContent = words;
  if (window.parent !== window) window.parent.postMessage({ source: "berth.desktop", state }, location.origin);
}

function end(code) {
  const [title, text] = WORDS[code] ?? LOST;
  part("title").textContent = title;
  part("text").textContent = text;
  part("notice").hidden = false;
  part("paste").hidden = true;
  part("full").hidden = true;
  show("closed", "Closed");
}

function open() {
  const address = new URL("ws", location.href);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  address.hash = "";
  const socket = new WebSocket(address, [PROTOCOL, `ticket.${ticket}`]);
  socket.addEventListener("close", (event) => end(event.code));
  const rfb = new RFB(part("screen"), socket, { shared: true });
  rfb.viewOnly = !control; // the agent's side enforces it, this only spares useless messages
  rfb.scaleViewport = true;
  rfb.background = "transparent";
  rfb.addEventListener("connect", () => {
    show("open", "Connected");
    part("paste").hidden = !control;
    if (control) rfb.focus();
  });
  rfb.addEventListener("clipboard", (event) => {
    if (control) navigator.clipboard?.writeText(event.detail.text).catch(() => {});
  });
  part("paste").addEventListener("click", async () => {
    try {
      rfb.clipboardPasteFrom(await navigator.clipboard.readText());
      part("status").textContent = "Clipboard sent";
    } catch {
      part("status").textContent = "The browser does not share its clipboard";
    }
    rfb.focus();
  });
}

part("mode").textContent = control ? "control" : "view only";
part("mode").hidden = false;
part("full").addEventListener("click", () =>
  document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen(),
);
if (ticket) open();
else end(4401);
