// What the page says beside what it shows: errors that stay until read, news that passes, words for screen readers.

import { button, el, say } from "./dom.js";
import { remedy } from "./words.js";

const PASSES = 6000;
const MOST = 4;
const board = document.getElementById("toasts");
const said = document.getElementById("said");

/** Tell of a failure: what happened, and what would help. Stays until it is put away. */
export function fail(failure) {
  post("alert", failure.message, remedy(failure));
}

/** Tell something good or harmless; goes by itself. */
export function tellShortly(text) {
  const toast = post("status", text, "");
  setTimeout(() => toast.remove(), PASSES);
}

/** For those who do not see the page change. */
export function announce(text) {
  say(said, text);
}

/** Run what a person asked for, and say so when it fails. True when it was done. */
export async function attempt(work) {
  try {
    await work();
    return true;
  } catch (failure) {
    if (failure.status === undefined) throw failure;
    // A refused token leads to the sign-in page, which says why.
    if (failure.status !== 401) fail(failure);
    return false;
  }
}

function post(role, text, help) {
  for (const old of [...board.children]) if (old.dataset.text === text) old.remove();
  while (board.children.length >= MOST) board.firstElementChild.remove();
  const toast = el("div", { class: `toast ${role}`, role, "data-text": text });
  board.append(toast);
  // After it is in the page, or screen readers miss it.
  toast.append(
    el("p", {}, el("strong", {}, text), help && ` ${help}`),
    button("Dismiss", () => toast.remove(), "quiet"),
  );
  return toast;
}
