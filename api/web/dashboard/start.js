// Asking for an agent, and the answer in words where it was asked.

import { path } from "./client.js";
import { busy, el, say, show } from "./dom.js";
import { Forecast } from "./forecast.js";
import { remedy } from "./words.js";

export class StartForm {
  constructor(store, orders) {
    this.store = store;
    this.orders = orders;
    this.options = el("datalist", { id: "projects" });
    this.field = el("input", {
      id: "project",
      name: "project",
      required: true,
      maxlength: "256",
      autocomplete: "off",
      spellcheck: "false",
      autocapitalize: "off",
      list: "projects",
      placeholder: "project",
      "aria-describedby": "start-forecast start-answer",
    });
    this.submit = el("button", { type: "submit", class: "primary" }, "Start an agent");
    this.what = el("strong");
    this.help = el("span");
    this.answer = el("p", { id: "start-answer", class: "answer", role: "alert" }, this.what, " ", this.help);
    this.answer.hidden = true;
    this.forecast = new Forecast(store);
    this.node = el(
      "form",
      { class: "start", "aria-label": "Start an agent" },
      el("label", { for: "project" }, "Project"),
      el("div", { class: "row" }, this.field, this.submit),
      this.options,
      this.forecast.node,
      this.answer,
    );
    this.node.addEventListener("submit", (event) => {
      event.preventDefault();
      busy(this.submit, () => this.#start());
    });
    this.field.addEventListener("input", () => {
      show(this.answer, false);
      this.#foretell();
    });
    // Whoever comes back to the form may find a queue that was not there before.
    this.node.addEventListener("focusin", () => this.#foretell());
  }

  render() {
    const projects = this.store.account?.projects ?? [];
    const known = [...this.options.children].map((option) => option.value);
    if (known.join("\n") !== projects.join("\n")) {
      this.options.replaceChildren(...projects.map((project) => el("option", { value: project })));
      if (!this.field.value && document.activeElement !== this.field) {
        this.field.value = this.#likely(projects);
        this.#foretell();
      }
    }
  }

  #foretell() {
    this.forecast.of(this.field.value.trim());
  }

  /** The first project without an agent: most people have one or two. */
  #likely(projects) {
    const taken = new Set(this.store.list().filter((a) => a.endedAt === null).map((a) => a.projectId));
    return projects.find((project) => !taken.has(project)) ?? "";
  }

  async #start() {
    show(this.answer, false);
    this.forecast.clear();
    try {
      const agentId = await this.orders.start(this.field.value.trim(), (text) => this.#say(text, "", "told"));
      if (!agentId) return;
      show(this.answer, false);
      location.hash = path`#/agents/${agentId}`;
    } catch (failure) {
      if (failure.status === undefined) throw failure;
      this.#say(failure.message, remedy(failure), "refused");
    }
  }

  #say(text, help, kind) {
    show(this.answer, true);
    this.answer.dataset.kind = kind;
    say(this.what, text);
    say(this.help, help);
  }
}
