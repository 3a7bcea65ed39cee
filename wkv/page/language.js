/** The page's words: which language is spoken, and a text by its name. */

import { texts as chinese } from "./chinese.js";
import { texts as english } from "./english.js";

export const LANGUAGES = { en: "English", zh: "中文" };

const TEXTS = { en: english, zh: chinese };
const changes = new EventTarget();
let spoken = preferred();

/** The language that the browser asks for, of those that the page speaks. */
export function preferred() {
  for (const wanted of navigator.languages ?? [navigator.language]) {
    const name = wanted.toLowerCase().split("-")[0];
    if (name in TEXTS) return name;
  }
  return "en";
}

export const language = () => spoken;

export function setLanguage(name) {
  spoken = name in TEXTS ? name : preferred();
  document.documentElement.lang = spoken === "zh" ? "zh-CN" : "en";
  applyTo(document);
  changes.dispatchEvent(new Event("change"));
}

export function onLanguage(callback) {
  changes.addEventListener("change", callback);
}

/** The text of a name, with `{key}` filled in; numbers are written as the language writes them. */
export function text(name, values = {}) {
  const found = TEXTS[spoken][name];
  return found.replaceAll(/\{(\w+)\}/g, (_, key) => written(values[key]));
}

/** The same as nodes; each value keeps the direction of its own letters. */
export function sentence(name, values) {
  return TEXTS[spoken][name].split(/(\{\w+\})/).map((part) => {
    if (!part.startsWith("{")) return part;
    const isolated = document.createElement("bdi");
    isolated.textContent = written(values[part.slice(1, -1)]);
    return isolated;
  });
}

const written = (value) => (typeof value === "number" ? number(value) : String(value));

export function number(value, digits = 2) {
  return new Intl.NumberFormat(spoken, { maximumFractionDigits: digits }).format(value);
}

export function date(milliseconds) {
  const form = { dateStyle: "medium", timeStyle: "short" };
  return new Intl.DateTimeFormat(spoken, form).format(milliseconds);
}

export function bytes(count) {
  const units = ["B", "kB", "MB", "GB"];
  const step = Math.min(Math.floor(Math.log10(Math.max(count, 1)) / 3), units.length - 1);
  return `${number(count / 1000 ** step, 1)} ${units[step]}`;
}

/** Fills elements that name their words: data-text, data-label, data-placeholder. */
export function applyTo(root) {
  for (const one of root.querySelectorAll("[data-text]")) one.textContent = text(one.dataset.text);
  for (const one of root.querySelectorAll("[data-label]")) {
    one.setAttribute("aria-label", text(one.dataset.label));
    if (one.tagName === "BUTTON") one.title = text(one.dataset.label);
  }
  for (const one of root.querySelectorAll("[data-placeholder]")) {
    one.placeholder = text(one.dataset.placeholder);
  }
}
