// The live stream: one socket, opened anew with patience when it breaks, from the place where it broke.

const FIRST = 500;
const LONGEST = 15_000;
const OPENING = 10_000;
// The server ends each socket after a while so that an expired token is noticed; that is no disturbance.
const RENEW = 4408;

/**
 * Dispatches `event` (detail: one event), `open` after each (re)connection, and `state` when `state` changes:
 * "connecting" at first, "live", "broken" (with `again`, the next try in milliseconds since 1970).
 */
export class Feed extends EventTarget {
  #client;
  #cursor = null;
  #socket = null;
  #timer = 0;
  #failures = 0;
  #over = false;
  state = "connecting";

  constructor(client) {
    super();
    this.#client = client;
    this.sooner = () => this.#failures && this.#retry(0);
  }

  start() {
    addEventListener("online", this.sooner);
    this.#open();
  }

  stop() {
    this.#over = true;
    removeEventListener("online", this.sooner);
    clearTimeout(this.#timer);
    this.#socket?.close();
  }

  async #open() {
    let ticket;
    try {
      ticket = (await this.#client.post("api/ticket")).body.ticket;
    } catch {
      this.#broke();
      return;
    }
    if (this.#over) return;
    const where = new URL("ws/events", document.baseURI);
    where.protocol = where.protocol === "https:" ? "wss:" : "ws:";
    where.searchParams.set("ticket", ticket);
    if (this.#cursor) where.searchParams.set("after", this.#cursor);
    const socket = new WebSocket(where);
    this.#socket = socket;
    const slow = setTimeout(() => socket.close(), OPENING);
    socket.addEventListener("open", () => {
      clearTimeout(slow);
      this.#failures = 0;
      this.#become("live");
      this.dispatchEvent(new Event("open"));
    });
    socket.addEventListener("message", (message) => this.#take(message.data));
    socket.addEventListener("close", (event) => {
      clearTimeout(slow);
      if (this.#over) return;
      if (event.code === RENEW && !this.#failures) this.#open();
      else this.#broke();
    });
  }

  #take(data) {
    let event;
    try {
      event = JSON.parse(data);
    } catch {
      return;
    }
    if (typeof event !== "object" || event === null || typeof event.kind !== "string") return;
    if (event.cursor) this.#cursor = event.cursor;
    this.dispatchEvent(new CustomEvent("event", { detail: event }));
  }

  #broke() {
    if (this.#over) return;
    this.#failures += 1;
    // A place that the server no longer takes must not lock us out: the list is read anew in any case.
    if (this.#failures > 2) this.#cursor = null;
    const longest = Math.min(LONGEST, FIRST * 2 ** (this.#failures - 1));
    this.#retry(longest * (0.5 + Math.random() / 2));
  }

  #retry(pause) {
    clearTimeout(this.#timer);
    this.again = Date.now() + pause;
    this.#timer = setTimeout(() => this.#open(), pause);
    this.#become("broken");
  }

  #become(state) {
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }
}
