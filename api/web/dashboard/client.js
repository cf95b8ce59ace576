// Questions to the API. Whatever goes wrong becomes a `Failure` with a sentence for people.

import { learn } from "./clock.js";
import { sentence } from "./words.js";

const PATIENCE = 20_000;
const PATIENCE_WITH_FILES = 300_000;

export class Failure extends Error {
  constructor(status, problem = {}, retryAfter = null) {
    super(sentence(problem.detail) || "Something went wrong.");
    this.status = status;
    this.code = problem.code ?? "";
    this.action = problem.action ?? "";
    this.fields = problem.errors ?? [];
    this.retryAfter = retryAfter;
  }
}

const UNREACHABLE = { code: "unreachable", detail: "Berth does not answer; your agents go on regardless" };

/** A path with its parts encoded: ids may hold anything, also slashes. */
export const path = (words, ...parts) => String.raw({ raw: words }, ...parts.map(encodeURIComponent));

export class Client extends EventTarget {
  constructor(token) {
    super();
    this.token = token;
  }

  get = (where) => this.ask("GET", where);
  post = (where, body, headers) => this.ask("POST", where, body, headers);
  put = (where, body) => this.ask("PUT", where, body);

  /** The answer as `{status, body, retryAfter}`; raises `Failure`. A refused token is also told as an event. */
  async ask(method, where, body, headers = {}) {
    const options = { method, headers };
    if (body !== undefined) {
      options.body = JSON.stringify(body);
      options.headers = { ...headers, "Content-Type": "application/json" };
    }
    const { response, taken } = await this.#send(where, options, PATIENCE, (answer) => answer.text());
    const retryAfter = Number(response.headers.get("Retry-After")) || null;
    if (response.ok) return { status: response.status, body: parsed(taken), retryAfter };
    throw this.#refusal(response, taken, retryAfter);
  }

  /** What is there as a `Blob`; raises `Failure`. */
  async bytes(where) {
    const take = (answer) => (answer.ok ? answer.blob() : answer.text());
    const { response, taken } = await this.#send(where, { method: "GET" }, PATIENCE_WITH_FILES, take);
    if (response.ok) return taken;
    throw this.#refusal(response, taken, null);
  }

  async #send(where, options, patience, take) {
    options.headers = { Authorization: `Bearer ${this.token}`, ...options.headers };
    options.signal = AbortSignal.timeout(patience);
    try {
      // Relative: the page also works behind a prefix.
      const response = await fetch(new URL(where, document.baseURI), { ...options, cache: "no-store" });
      const taken = await take(response);
      learn(response.headers.get("Date"));
      return { response, taken };
    } catch {
      throw new Failure(0, UNREACHABLE);
    }
  }

  #refusal(response, text, retryAfter) {
    const answer = parsed(text);
    const failure = new Failure(response.status, answer?.detail ? answer : byStatus(response.status), retryAfter);
    if (failure.status === 401) this.dispatchEvent(new CustomEvent("refused", { detail: failure }));
    return failure;
  }

  /** All items of a list, page by page, at most `most`; says with `more` whether some were left out. */
  async all(where, most = 1000) {
    const items = [];
    let cursor = null;
    do {
      const page = new URLSearchParams({ limit: "200", ...(cursor ? { cursor } : {}) });
      const { body } = await this.get(`${where}${where.includes("?") ? "&" : "?"}${page}`);
      items.push(...body.items);
      cursor = body.nextCursor;
    } while (cursor && items.length < most);
    return { items, more: Boolean(cursor) };
  }
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function byStatus(status) {
  if (status >= 500) return { code: "unavailable", detail: "Berth cannot answer right now" };
  return { code: "refused", detail: `Berth refused this (${status})` };
}
