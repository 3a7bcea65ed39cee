/** Making elements: text is always set as text, never read as HTML. */

import { icon } from "./icons.js";

/**
 * An element. Attributes: `class`, `text`, `onclick` and its like, true and false for those without
 * a value, everything else by its name in HTML. Children that are null are left out.
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") made.textContent = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** A button that shows an icon; its label is what screen readers and tooltips say. */
export function iconButton(name, label, onclick, more = {}) {
  const look = { type: "button", class: "icon-button", "aria-label": label, title: label };
  return element("button", { ...look, onclick, ...more }, icon(name));
}

/** A button with words and, before them, an icon if one is named. */
export function textButton(label, onclick, { name = null, ...more } = {}) {
  const look = { type: "button", class: "button", onclick, ...more };
  return element("button", look, name && icon(name), element("span", { text: label }));
}

/** Puts text on the clipboard; the old way serves pages that come by plain http. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const before = document.activeElement;
    const area = element("textarea", { class: "visually-hidden", "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    before?.focus();
    return done;
  }
}

/** A copy button that says for a moment that it has copied. */
export function copyButton(label, copied, text, more = {}) {
  const button = iconButton("copy", label, async () => {
    if (!(await copyText(text()))) return;
    show("check", copied);
    setTimeout(() => show("copy", label), 1600);
  }, more);
  const show = (name, words) => {
    button.replaceChildren(icon(name));
    button.setAttribute("aria-label", words);
    button.title = words;
  };
  return button;
}

/** Offers data as a file to keep. */
export function download(blob, name) {
  const address = URL.createObjectURL(blob);
  const link = element("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
