/** The panel of states: save, load, fork, download, upload and delete what the model has read. */

import { titleOf } from "./conversation.js";
import { download, element, iconButton, textButton } from "./dom.js";
import { bytes, date, sentence, text } from "./language.js";
import { problemBox } from "./problems.js";
import { Sheet } from "./sheet.js";
import { loadStateNames, saveStateNames } from "./store.js";

export class States {
  #states = [];
  #problem = null;
  #busy = false;
  #news = "";

  constructor(app, dialog, file) {
    Object.assign(this, { app, file });
    this.sheet = new Sheet(dialog, document.getElementById("open-states"));
    file.addEventListener("change", () => this.#upload());
  }

  open() {
    this.show();
    this.sheet.open();
    this.#try(() => this.#list());
  }

  show() {
    const save = textButton(text(this.#busy ? "saving_state" : "save_state"), () => this.#save(), {
      name: "layers", class: "button primary", "data-focus": "save", "aria-disabled": String(this.#busy),
    });
    const upload = textButton(text("upload"), () => this.file.click(),
      { name: "load", class: "button quiet", "data-focus": "upload" });
    const again = () => this.#try(() => this.#list());
    const enterKey = () => {
      this.sheet.dialog.close();
      this.app.openSettings("key");
    };
    const none = this.#states.length === 0 && !this.#problem;
    this.sheet.fill(text("states"),
      element("p", { class: "hint", text: text("states_note") }),
      element("div", { class: "buttons" }, save, upload),
      element("p", { class: "news", role: "status", text: this.#news }),
      this.#problem ? problemBox(this.#problem, { retry: again, enterKey }) : null,
      none ? element("p", { class: "hint empty", text: text("no_states") }) : null,
      element("ul", { class: "states" }, ...this.#states.map((state) => this.#row(state))));
  }

  /** The line above a conversation that goes on from a state. */
  showOrigin(place) {
    const { library } = this.app;
    const { state, kind } = library.current;
    place.hidden = !state;
    if (!state) return;
    const fork = textButton(text("fork"), () => this.#begin(state, kind),
      { name: "fork", class: "button small quiet", "aria-label": text("fork_label", state) });
    const leave = iconButton("close", text("leave_state"), () => {
      library.current.state = null;
      library.save(library.current, false);
      this.app.show();
      this.app.focusInput();
    });
    place.replaceChildren(element("p", {}, ...sentence("from_state", state)), fork, leave);
  }

  #row(state) {
    const { library } = this.app;
    const name = this.#nameOf(state);
    const known = { id: state.id, name, tokens: state.tokens };
    const facts = { tokens: state.tokens, size: bytes(state.bytes), date: date(state.created * 1000) };
    const focus = (what) => ({ "data-focus": `${what}-${state.id}` });
    return element("li", {},
      element("p", { class: "state-name", text: name, dir: "auto" }),
      element("p", { class: "hint", text: text("state_line", facts) }),
      element("div", { class: "buttons" },
        textButton(text("load"), () => this.#begin(known, library.current.kind), {
          name: "onward", class: "button small", "aria-label": text("load_label", known), ...focus("load"),
        }),
        iconButton("save", text("download_label", known), () => this.#download(known), focus("down")),
        iconButton("bin", text("delete_label", known), () => this.#delete(state.id), focus("bin"))));
  }

  #begin(state, kind) {
    this.app.library.begin(kind, { ...state });
    this.sheet.dialog.close();
    this.app.focusInput();
  }

  async #list() {
    this.#states = (await this.app.api.states()).toSorted((one, other) => other.created - one.created);
  }

  async #save() {
    const read = this.app.readSoFar();
    if (read === null) {
      this.#news = text("nothing_to_save");
      this.show();
      return;
    }
    const name = titleOf(this.app.library.current);
    await this.#try(async () => {
      const state = await this.app.api.saveState(read, name);
      this.#remember(state.id, name);
      await this.#list();
      this.#news = text("state_saved", { tokens: state.tokens });
    });
  }

  async #upload() {
    const [file] = this.file.files;
    this.file.value = "";
    if (!file) return;
    await this.#try(async () => {
      const name = file.name.replace(/\.[^.]*$/, "");
      const state = await this.app.api.uploadState(file, name);
      this.#remember(state.id, name);
      await this.#list();
      this.#news = text("state_uploaded", { tokens: state.tokens });
    });
  }

  #download({ id, name }) {
    const safe = name.replaceAll(/[^\p{L}\p{N} -]/gu, "").trim().slice(0, 40) || id;
    return this.#try(async () => download(await this.app.api.downloadState(id), `${safe}.safetensors`));
  }

  #delete(id) {
    return this.#try(async () => {
      await this.app.api.deleteState(id);
      this.#remember(id, null);
      await this.#list();
      this.#news = text("state_deleted");
    });
  }

  /** Does something with the server; what goes wrong is shown in the panel, and nothing is lost. */
  async #try(action) {
    if (this.#busy) return;
    this.#busy = true;
    this.#problem = null;
    this.#news = "";
    this.show();
    try {
      await action();
    } catch (error) {
      this.#problem = { kind: error.kind ?? "failed", detail: error.detail ?? String(error), wait: error.wait ?? null };
    }
    this.#busy = false;
    this.show();
  }

  /** The name that the server keeps, or this browser, or else the id; two states never look the same. */
  #nameOf(state) {
    const own = loadStateNames();
    const given = ({ id, name }) => name || own[id] || id.slice(0, 14);
    const name = given(state);
    const isShared = this.#states.some((other) => other.id !== state.id && given(other) === name);
    return isShared ? `${name} (${state.id.slice(6, 10)})` : name;
  }

  #remember(id, name) {
    const names = loadStateNames();
    if (name) names[id] = name;
    else delete names[id];
    saveStateNames(names);
  }
}
