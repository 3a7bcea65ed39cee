/** Puts the page together. */

import { Answering } from "./answering.js";
import { Api } from "./api.js";
import { Chat } from "./chat.js";
import { titleOf } from "./conversation.js";
import { icon } from "./icons.js";
import { LANGUAGES, language, onLanguage, setLanguage, text } from "./language.js";
import { Library } from "./library.js";
import { Notices } from "./notices.js";
import { Raw } from "./raw.js";
import { Settings } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { States } from "./states.js";
import { loadSettings, saveSettings } from "./store.js";
import { refuseFiles } from "./text_only.js";

const THEMES = ["system", "light", "dark"];
const $ = (id) => document.getElementById(id);

/** What every part of the page may ask for. */
class App {
  constructor() {
    this.api = new Api();
    this.answering = new Answering();
    this.library = new Library((conversation) => this.answering.isRunning(conversation));
    this.notices = new Notices($("notices"), () => this.focus());
    this.settings = loadSettings();
    this.models = [];
    this.model = { id: "" };
    this.problem = null;
    this.api.key = this.settings.key ?? "";
  }

  start() {
    this.#drawIcons();
    this.chat = new Chat(this);
    this.raw = new Raw(this);
    this.sidebar = new Sidebar(this);
    this.panel = new Settings(this, $("settings"));
    this.states = new States(this, $("states"), $("state-file"));
    this.#listen();
    this.#applyTheme();
    setLanguage(this.settings.language);
    this.findModels();
    this.focusInput();
  }

  /** Draws what depends on the conversation in view. */
  show() {
    const { current } = this.library;
    const isRaw = current.kind === "raw";
    const title = titleOf(current) || text(isRaw ? "untitled_raw" : "untitled");
    $("title").textContent = title;
    document.title = `${title} – ${this.model.id || "wkv"}`;
    $("chat").hidden = isRaw;
    $("raw").hidden = !isRaw;
    this.states.showOrigin($(isRaw ? "raw-from-state" : "from-state"));
    if (isRaw) this.raw.show();
    else this.chat.show();
    this.sidebar.show();
  }

  /** Asks the server which models there are; without an answer the page says why. */
  async findModels() {
    try {
      this.models = await this.api.models();
      this.problem = null;
    } catch (error) {
      this.problem = { kind: error.kind ?? "failed", detail: error.detail ?? "", wait: error.wait ?? null };
    }
    this.chooseModel();
  }

  chooseModel() {
    const named = this.models.find(({ id }) => id === this.settings.model);
    this.model = named ?? this.models[0] ?? { id: "" };
    this.show();
    if (this.panel.sheet.isOpen) this.panel.show();
  }

  setSettings(settings) {
    this.settings = settings;
    this.api.key = settings.key ?? "";
    if (!saveSettings(settings)) this.#sayFull();
  }

  openSettings(field) {
    this.panel.open(field);
  }

  /** What a state of the conversation in view would have read, or null. */
  readSoFar() {
    const { current } = this.library;
    if (current.kind === "chat") return this.chat.read();
    if (!current.text) return null;
    return current.state ? { prompt: current.text, state: current.state.id } : { prompt: current.text };
  }

  /** Puts the caret into the text, where that does not bring up a keyboard over half the page. */
  focusInput(asked = false) {
    if (matchMedia("(pointer: coarse)").matches && !asked) return;
    $(this.library.current.kind === "raw" ? "raw-text" : "input").focus();
  }

  /** Puts the focus where the user is: into the drawer, an open dialog or the text. */
  focus() {
    const close = document.querySelector("dialog[open] [data-focus=close]");
    if (close) close.focus();
    else if (this.sidebar.drawer.isOpen) this.sidebar.focus();
    else this.focusInput(true);
  }

  #listen() {
    this.library.addEventListener("change", () => this.show());
    this.library.addEventListener("full", () => this.#sayFull());
    this.answering.addEventListener("end", () => this.sidebar.show());
    onLanguage(() => this.#redraw());
    refuseFiles(() => this.notices.show(text("text_only")));
    $("open-settings").addEventListener("click", () => this.openSettings());
    $("open-states").addEventListener("click", () => this.states.open());
    $("theme").addEventListener("click", () => this.#nextTheme());
    $("language").addEventListener("click", () => {
      setLanguage(language() === "zh" ? "en" : "zh");
      this.setSettings({ ...this.settings, language: language() });
    });
    $("skip").addEventListener("click", (event) => {
      event.preventDefault();
      this.focusInput(true);
    });
    document.addEventListener("keydown", (event) => {
      const elsewhere = document.querySelector("dialog[open]") || event.isComposing || event.defaultPrevented;
      if (event.key === "Escape" && !elsewhere) this.answering.stop(this.library.current);
    });
    addEventListener("beforeunload", () => this.answering.prepareToLeave());
    addEventListener("pagehide", () => {
      for (const conversation of this.answering.leave()) this.library.keepPartial(conversation);
    });
  }

  #redraw() {
    $("language").textContent = language() === "zh" ? "EN" : LANGUAGES.zh.slice(0, 1);
    this.#applyTheme();
    this.chat.redraw();
    if (this.panel.sheet.isOpen) this.panel.show();
    this.show();
  }

  #nextTheme() {
    const now = THEMES.indexOf(this.settings.theme ?? "system");
    this.setSettings({ ...this.settings, theme: THEMES[(now + 1) % THEMES.length] });
    this.#applyTheme();
  }

  #applyTheme() {
    const theme = THEMES.includes(this.settings.theme) ? this.settings.theme : "system";
    document.documentElement.dataset.theme = theme;
    const label = text(`theme_${theme}`);
    $("theme").replaceChildren(icon(theme));
    $("theme").setAttribute("aria-label", label);
    $("theme").title = label;
  }

  #drawIcons() {
    for (const place of document.querySelectorAll("[data-icon]")) place.prepend(icon(place.dataset.icon));
  }

  #sayFull() {
    this.notices.show(text("storage_full"), { lasting: true });
  }
}

new App().start();
