// Time as the server has it, a tick a second, and times in words.

const DRIFT = 1500;
let offset = 0;

export const clock = new EventTarget();

export const now = () => Date.now() + offset;

/** Learn the server's time from an answer's Date header, which counts whole seconds. */
export function learn(header) {
  const at = header ? Date.parse(header) + 500 : NaN;
  if (Number.isNaN(at)) return;
  const drift = at - Date.now();
  if (Math.abs(drift - offset) > DRIFT) offset = Math.abs(drift) > DRIFT ? drift : 0;
}

export function tick() {
  for (const node of document.querySelectorAll("time[data-live]")) refresh(node);
  clock.dispatchEvent(new Event("tick"));
}

const date = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const hours = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });

export const timeOfDay = (iso) => hours.format(new Date(iso));
export const wholeDate = (iso) => date.format(new Date(iso));

/** "42 s", "12 min", "3 h 05 min", "2 days": how long, in few words. */
export function span(milliseconds) {
  const seconds = Math.max(0, Math.floor(milliseconds / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const whole = Math.floor(minutes / 60);
  if (whole < 24) return `${whole} h ${String(minutes % 60).padStart(2, "0")} min`;
  const days = Math.floor(whole / 24);
  return days === 1 ? "1 day" : `${days} days`;
}

export function ago(iso) {
  const passed = now() - Date.parse(iso);
  return passed < 3000 ? "just now" : `${span(passed)} ago`;
}

/** "1:43", "0:09": what is left until then, never less than nothing. */
export function left(iso) {
  const seconds = Math.max(0, Math.ceil((Date.parse(iso) - now()) / 1000));
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}

/** Make `node` (a `time`) show `iso` as "… ago" or, with kind "span", as how long since; it ticks by itself. */
export function live(node, iso, kind = "ago") {
  if (node.dateTime !== iso || node.dataset.live !== kind) {
    node.dateTime = iso;
    node.dataset.live = kind;
    node.title = wholeDate(iso);
  }
  refresh(node);
  return node;
}

function refresh(node) {
  const text = node.dataset.live === "span" ? span(now() - Date.parse(node.dateTime)) : ago(node.dateTime);
  if (node.textContent !== text) node.textContent = text;
}
