// Runs in a world of its own beside the page: the page can neither see nor change it.
(() => {
  if (globalThis.berth) return;

  const ACTIONABLE = "a[href],button,input:not([type=hidden]),select,textarea,summary,label[for],[contenteditable=''],"
    + "[contenteditable=true],[onclick],[tabindex]:not([tabindex='-1']),[role=button],[role=link],[role=checkbox],"
    + "[role=radio],[role=tab],[role=menuitem],[role=option],[role=switch],[role=combobox],[role=textbox]";
  let listed = [];

  // The document, its open shadow roots, and frames of the same origin.
  function* roots(root = document) {
    yield root;
    for (const el of root.querySelectorAll("*")) {
      if (el.shadowRoot) yield* roots(el.shadowRoot);
      if (el.tagName === "IFRAME" || el.tagName === "FRAME") {
        let inner = null;
        try { inner = el.contentDocument; } catch { /* another origin */ }
        if (inner) yield* roots(inner);
      }
    }
  }

  function visible(el) {
    const box = el.getBoundingClientRect();
    if (box.width === 0 || box.height === 0) return false;
    const style = el.ownerDocument.defaultView.getComputedStyle(el);
    return style.visibility !== "hidden" && style.display !== "none";
  }

  // Never between the two halves of a character.
  const cut = (text, length) => text.slice(0, length).replace(/[\ud800-\udbff]$/, "");
  const clip = (text, length) => cut((text || "").replace(/\s+/g, " ").trim(), length);

  function name(el) {
    const label = el.labels && el.labels.length ? el.labels[0].innerText : "";
    return clip(el.getAttribute("aria-label") || label || el.getAttribute("placeholder") || el.getAttribute("title")
      || el.getAttribute("alt") || (el.tagName === "INPUT" && /^(submit|button|reset)$/.test(el.type) ? el.value : "")
      || (el.tagName === "SELECT" ? "" : el.innerText), 200);
  }

  function describe(el, index) {
    const out = { index, tag: el.tagName.toLowerCase(), name: name(el) };
    for (const key of ["id", "role", "type", "href"]) {
      const value = key === "href" ? el.href : el.getAttribute(key);
      if (typeof value === "string" && value) out[key] = cut(value, 500);
    }
    if (el.tagName === "SELECT") {
      out.value = el.value;
      out.options = [...el.options].slice(0, 100).map((o) => clip(o.text, 100));
    } else if ("checked" in el && /^(checkbox|radio)$/.test(el.type)) out.checked = el.checked;
    else if (typeof el.value === "string" && el.type !== "password") out.value = cut(el.value, 200);
    if (el.disabled) out.disabled = true;
    return out;
  }

  function fire(el, ...kinds) {
    for (const kind of kinds) el.dispatchEvent(new Event(kind, { bubbles: true, composed: true }));
  }

  globalThis.berth = {
    find(selector, index) {
      if (selector === null) return listed[index] && listed[index].isConnected ? listed[index] : null;
      for (const root of roots()) {
        const el = root.querySelector(selector);
        if (el) return el;
      }
      return null;
    },

    list(limit) {
      listed = [];
      const elements = [];
      for (const root of roots()) {
        for (const el of root.querySelectorAll(ACTIONABLE)) {
          if (elements.length >= limit) return { elements, truncated: true };
          if (!visible(el)) continue;
          elements.push(describe(el, listed.length));
          listed.push(el);
        }
      }
      return { elements, truncated: false };
    },

    extract(selector, attribute, limit) {
      if (selector === null) {
        const el = document.body || document.documentElement;
        if (attribute !== null) return { items: [el.getAttribute(attribute)], matches: 1 };
        return { text: el.innerText };
      }
      const items = [];
      let matches = 0;
      for (const root of roots()) {
        for (const el of root.querySelectorAll(selector)) {
          matches += 1;
          if (items.length >= limit) continue;
          items.push(attribute === null ? (el.innerText ?? el.textContent).trim() : el.getAttribute(attribute));
        }
      }
      return { items, matches };
    },

    // Makes the element ready for typed text. True: type; false: the value has been set here already.
    prepare(el, text, clear) {
      const typed = el.isContentEditable || el.tagName === "TEXTAREA"
        || (el.tagName === "INPUT" && /^(text|search|url|tel|email|password|number)$/.test(el.type));
      if (!typed && !("value" in el)) throw new Error("this element takes no text");
      if (el.disabled || el.readOnly) throw new Error("this element is disabled or read-only");
      el.focus();
      if (!typed) {
        if (el.type === "file") throw new Error("a file field takes no text");
        const proto = el.tagName === "INPUT" ? el.ownerDocument.defaultView.HTMLInputElement.prototype : null;
        const setter = proto && Object.getOwnPropertyDescriptor(proto, "value").set;
        if (setter) setter.call(el, text); else el.value = text;
        fire(el, "input", "change");
        return false;
      }
      if (el.isContentEditable) {
        const range = el.ownerDocument.createRange();
        range.selectNodeContents(el);
        if (!clear) range.collapse(false);
        const selection = el.ownerDocument.defaultView.getSelection();
        selection.removeAllRanges();
        selection.addRange(range);
      } else if (clear) el.select();
      else if (!/^(number|email)$/.test(el.type)) el.setSelectionRange(el.value.length, el.value.length);
      return true;
    },

    choose(el, option) {
      if (el.tagName !== "SELECT") throw new Error("this element is no select box");
      const found = [...el.options].find((o) => o.value === option)
        || [...el.options].find((o) => clip(o.text, 1e6) === clip(option, 1e6));
      if (!found) return null;
      el.focus();
      if (el.multiple) found.selected = true; else el.value = found.value, found.selected = true;
      fire(el, "input", "change");
      return { value: found.value, text: clip(found.text, 500) };
    },

    scroll(el, by) {
      const target = el || document.scrollingElement || document.documentElement;
      target.scrollBy({ top: by, behavior: "instant" });
      return { top: Math.round(target.scrollTop), height: target.scrollHeight, visible: target.clientHeight };
    },
  };
})()
