// The agent's desktop in a page. Relative addresses only: it works behind any prefix of whoever serves it.
import RFB from "../core/rfb.js";

const query = new URLSearchParams(location.search);
const mode = query.get("mode") === "control" ? "control" : "view";
const screen = document.getElementById("screen");
const notice = document.getElementById("notice");
const badge = document.getElementById("mode");

function address() {
  const url = new URL("websockify", document.baseURI);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.search = location.search; // a ticket, where there is one, travels as it came
  url.searchParams.set("mode", mode);
  return url.href;
}

function say(text, again = false) {
  notice.textContent = text;
  if (!again) return;
  const button = document.createElement("button");
  button.textContent = "Reload";
  button.addEventListener("click", () => location.reload());
  notice.append(button);
}

const rfb = new RFB(screen, address(), { shared: true, wsProtocols: ["binary"] });
rfb.viewOnly = mode === "view"; // the server enforces it; this only keeps the cursor honest
rfb.scaleViewport = true;
rfb.resizeSession = false;
rfb.background = "transparent";
badge.hidden = mode !== "view";

rfb.addEventListener("connect", () => {
  say("");
  document.body.dataset.state = "connected";
  if (mode === "control") rfb.focus();
});
rfb.addEventListener("disconnect", (event) => {
  document.body.dataset.state = "disconnected";
  say(event.detail.clean ? "The agent has closed this view." : "The connection to the agent is lost.", true);
});
rfb.addEventListener("clipboard", (event) => {
  if (mode === "control" && navigator.clipboard) navigator.clipboard.writeText(event.detail.text).catch(() => {});
});
