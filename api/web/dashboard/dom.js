// Making and changing nodes. Text always becomes text nodes: nothing here, or on this page, ever parses HTML.

const SVG = "http://www.w3.org/2000/svg";

/** A node. `props`: `class`, `on` (listeners by event), anything else an attribute; null and false are left out. */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** One of the page's own shapes; it only repeats what the text beside it says. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS(SVG, "use"));
  turn(svg, name);
  return svg;
}

export function turn(svg, name) {
  const use = svg.firstElementChild;
  if (use.getAttribute("href") !== `#${name}`) use.setAttribute("href", `#${name}`);
}

/** Change text only where it differs, so that nothing is selected away or announced twice. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function show(node, shown) {
  if (node.hidden === shown) node.hidden = !shown;
}

/** Do `work`, which may hide buttons; when one that had the focus went, `instead` gets it. */
export function keepFocus(within, instead, work) {
  const had = within.contains(document.activeElement) ? document.activeElement : null;
  work();
  if (had && !had.checkVisibility()) instead.focus({ preventScroll: true });
}

export function button(label, listener, kind = "", extra = {}) {
  return el("button", { type: "button", class: kind || null, on: { click: listener }, ...extra }, label);
}

/** Let a parent hold exactly `nodes`, in order, moving as few as can be: what has the focus keeps it. */
export function arrange(parent, nodes) {
  const wanted = new Set(nodes);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  nodes.forEach((node, index) => {
    if (parent.children[index] !== node) parent.insertBefore(node, parent.children[index] ?? null);
  });
}

/** Run `work` with its button busy; it can be pressed once at a time. */
export async function busy(pressed, work) {
  if (pressed.getAttribute("aria-disabled") === "true") return;
  // Not `disabled`, which would throw the focus away.
  pressed.setAttribute("aria-disabled", "true");
  try {
    await work();
  } finally {
    pressed.removeAttribute("aria-disabled");
  }
}
