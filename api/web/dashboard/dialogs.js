// Questions before something is ended. `<dialog>` keeps the focus inside and gives it back.

import { button, el } from "./dom.js";

/** Ask; resolves to the form's data, or null when it was called off. With words of its own, calling off has the focus. */
export function ask({ title, text, fields = [], confirm, kind = "primary", cancel = "" }) {
  return new Promise((resolve) => {
    const heading = el("h2", { id: "question" }, title);
    const form = el(
      "form",
      { method: "dialog" },
      heading,
      text && el("p", {}, text),
      ...fields,
      el(
        "div",
        { class: "actions" },
        el("button", { type: "submit", value: "yes", class: kind }, confirm),
        button(cancel || "Cancel", () => dialog.close(""), "", { autofocus: Boolean(cancel) }),
      ),
    );
    const dialog = el("dialog", { "aria-labelledby": "question" }, form);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      dialog.close("yes");
    });
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close("");
    });
    dialog.addEventListener("close", () => {
      resolve(dialog.returnValue === "yes" ? new FormData(form) : null);
      dialog.remove();
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** One of a few, as radio buttons; the first is chosen. */
export function choice(name, legend, options) {
  return el(
    "fieldset",
    {},
    el("legend", {}, legend),
    ...options.map(([value, label], index) =>
      el("label", {}, el("input", { type: "radio", name, value, checked: index === 0 }), label),
    ),
  );
}

const GRACES = [["0", "At once"], ["30", "In 30 seconds"], ["120", "In 2 minutes"], ["600", "In 10 minutes"]];

export const graceChoice = () => choice("grace", "When", GRACES);
