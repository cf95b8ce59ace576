// The way in, when there is no token or it is no longer taken.

import { el } from "./dom.js";
import { remember } from "./session.js";

/** The sign-in page; `because` says why one is here, `entered` is called once a token was given. */
export function login(because, entered) {
  const field = el("textarea", {
    id: "token",
    rows: "4",
    required: true,
    spellcheck: "false",
    autocomplete: "off",
    autocapitalize: "off",
    "aria-describedby": "token-help",
  });
  const form = el(
    "form",
    { class: "login panel" },
    el("h1", {}, "Sign in"),
    because && el("p", { class: "because", role: "alert" }, because),
    el("label", { for: "token" }, "Your access token"),
    field,
    el("p", { id: "token-help", class: "faint" }, "On the machine that runs Berth, ", el("code", {}, "berth token USER"),
      " prints one. It stays in this tab and is gone when you close it."),
    el("div", { class: "actions" }, el("button", { type: "submit", class: "primary" }, "Sign in")),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    // A token pasted from a terminal may be broken over lines.
    const given = field.value.replace(/\s+/g, "").replace(/^Bearer/i, "");
    if (!given) return;
    remember(given);
    entered();
  });
  // Enter signs in: a token has no lines.
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  return { node: form, focus: () => field.focus() };
}
