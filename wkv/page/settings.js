/** The panel of parameters: sampling with its presets, limits, the prompt, the connection. */

import { element, textButton } from "./dom.js";
import { number, text } from "./language.js";
import {
  EFFORTS, LIMITS, SAMPLING, presetOf, readNumber, readStops, withPreset, withoutSampling,
  thinks,
} from "./parameters.js";
import { Sheet } from "./sheet.js";

export class Settings {
  constructor(app, dialog) {
    this.app = app;
    this.sheet = new Sheet(dialog, document.getElementById("open-settings"));
  }

  /** Opens the panel, at the field `name` if one is named. */
  open(name = null) {
    this.show();
    this.sheet.open();
    const field = name && this.sheet.dialog.querySelector(`[name=${name}]`);
    field?.focus();
    field?.scrollIntoView({ block: "center" });
  }

  show() {
    this.sheet.fill(text("parameters"),
      this.#sampling(), this.#prompt(), this.#connection());
  }

  #set(name, value) {
    const settings = { ...this.app.settings };
    if (value === null || value === "") delete settings[name];
    else settings[name] = value;
    this.app.setSettings(settings);
    this.#markPreset();
  }

  #sampling() {
    const { own, presets } = this.#model();
    const chips = Object.entries(presets).map(([name, preset]) => element("button", {
      type: "button", class: "chip small", text: name, "data-preset": name, "data-focus": `preset-${name}`,
      onclick: () => this.#replace(withPreset(this.app.settings, preset)),
    }));
    const reset = textButton(text("reset"), () => this.#replace(withoutSampling(this.app.settings)),
      { name: "undo", class: "button small quiet", "data-focus": "reset" });
    const section = element("section", {}, element("h3", { text: text("sampling") }),
      element("p", { class: "hint", text: text("sampling_note") }),
      chips.length ? element("div", { class: "chips", role: "group", "aria-label": text("presets") }, ...chips) : null,
      ...[...SAMPLING, ...LIMITS].map((field) => this.#numberField(field, own)), reset);
    this.#markPreset(section);
    return section;
  }

  #prompt() {
    const { settings } = this.app;
    const system = element("textarea", { name: "system", rows: "3", dir: "auto" });
    system.value = settings.system ?? "";
    system.addEventListener("input", () => this.#set("system", system.value));
    const stops = element("textarea", { name: "stop", rows: "2", class: "code-font", dir: "auto" });
    stops.value = settings.stop ?? "";
    const stopField = field("stop_at", "stop_hint", stops);
    stops.addEventListener("input", () => {
      const good = readStops(stops.value) !== undefined;
      complain(stopField, stops, good ? "" : text("stops_most"));
      if (good) this.#set("stop", stops.value);
    });
    const effort = element("select", { name: "reasoning_effort" },
      ...["own", ...EFFORTS].map((name) => element("option", { value: name, text: text(`effort_${name}`) })));
    effort.value = settings.reasoning_effort ?? "own";
    effort.addEventListener("change", () => {
      this.#set("reasoning_effort", effort.value === "own" ? null : effort.value);
    });
    return element("section", {}, element("h3", { text: text("prompt_section") }),
      field("system", "system_hint", system),
      ...(thinks(this.app.model) ? [beside(field("reasoning_effort", null, effort))] : []), stopField);
  }

  #connection() {
    const { app } = this;
    const key = element("input", {
      type: "password", name: "key", autocomplete: "off", spellcheck: "false",
    });
    key.value = app.settings.key ?? "";
    key.addEventListener("input", () => this.#set("key", key.value.trim()));
    key.addEventListener("change", () => app.findModels());
    const models = element("select", { name: "model" },
      ...app.models.map(({ id }) => element("option", { value: id, text: id })));
    models.value = app.model.id;
    models.addEventListener("change", () => {
      this.#set("model", models.value);
      app.chooseModel();
      this.show();
    });
    return element("section", {}, element("h3", { text: text("connection") }),
      app.models.length > 1 ? beside(field("model", null, models)) : null,
      // A password's field wants a form; there is nothing to submit.
      element("form", { onsubmit: (event) => event.preventDefault() }, field("key", "key_hint", key)));
  }

  #numberField(rule, own) {
    const { name, min, max, whole } = rule;
    const usual = { ...own, seed: text("seed_empty") }[name];
    const input = element("input", {
      name, type: "text", inputmode: "decimal", autocomplete: "off",
      placeholder: typeof usual === "number" ? String(usual) : usual ?? text("own"),
    });
    input.value = this.app.settings[name] ?? "";
    const made = beside(field(name, `${name}_hint`, input));
    input.addEventListener("input", () => {
      const value = readNumber(rule, input.value);
      const bounds = { min, max: number(max) };
      complain(made, input, value === undefined ? text(whole ? "not_whole" : "out_of_range", bounds) : "");
      if (value !== undefined) this.#set(name, value);
    });
    input.addEventListener("keydown", (event) => {
      const by = { ArrowUp: rule.step, ArrowDown: -rule.step }[event.key];
      if (!by) return;
      event.preventDefault();
      const start = Number(input.value || (typeof usual === "number" ? usual : 0));
      input.value = String(Number(Math.min(max, Math.max(min, start + by)).toFixed(6)));
      input.dispatchEvent(new Event("input"));
    });
    return made;
  }

  #replace(settings) {
    this.app.setSettings(settings);
    this.show();
  }

  #model() {
    const { sampling = {}, max_tokens = undefined, presets = {} } = this.app.model.wkv ?? {};
    return { own: { ...sampling, max_tokens }, presets };
  }

  #markPreset(place = this.sheet.dialog) {
    const { own, presets } = this.#model();
    const now = presetOf(this.app.settings, own, presets);
    for (const chip of place.querySelectorAll("[data-preset]")) {
      chip.setAttribute("aria-pressed", String(chip.dataset.preset === now));
    }
  }
}

/** A label, its input, a hint below it and room for a complaint. */
function field(name, hint, input) {
  const id = `field-${input.name}`;
  input.id = id;
  input.dataset.focus = id;
  if (hint) input.setAttribute("aria-describedby", `${id}-hint ${id}-error`);
  return element("div", { class: "field" },
    element("label", { for: id, text: text(name) }), input,
    hint ? element("p", { class: "hint", id: `${id}-hint`, text: text(hint) }) : null,
    element("p", { class: "error", id: `${id}-error`, role: "alert" }));
}

function beside(made) {
  made.classList.add("beside");
  return made;
}

function complain(made, input, words) {
  made.querySelector(".error").textContent = words;
  input.setAttribute("aria-invalid", String(words !== ""));
}
