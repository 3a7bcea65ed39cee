/** The list of conversations: search, open, rename, delete, export and import. */

import { titleOf } from "./conversation.js";
import { download, element, iconButton } from "./dom.js";
import { BadFile, fromFile, toFile } from "./exchange.js";
import { icon } from "./icons.js";
import { sentence, text } from "./language.js";

export class Sidebar {
  #renaming = null;

  constructor(app) {
    const $ = (id) => document.getElementById(id);
    Object.assign(this, { app, list: $("conversations"), words: $("search"), file: $("import-file") });
    this.drawer = new Drawer($("sidebar"), [$("stage"), $("skip")], $("shade"), $("open-menu"));
    this.drawer.addEventListener("change", () => app.notices.settle());
    $("new-chat").addEventListener("click", () => this.#begin("chat"));
    $("new-raw").addEventListener("click", () => this.#begin("raw"));
    $("close-menu").addEventListener("click", () => this.drawer.close());
    $("import").addEventListener("click", () => this.file.click());
    $("export-all").addEventListener("click", () => this.#export(app.library.list()));
    this.words.addEventListener("input", () => this.show());
    this.words.addEventListener("keydown", (event) => {
      // The first Escape empties the box.
      if (event.key === "Escape" && this.words.value) event.stopPropagation();
    });
    this.file.addEventListener("change", () => this.#import());
  }

  show() {
    if (this.#renaming) return;
    const { library } = this.app;
    const found = library.list(this.words.value);
    const focus = document.activeElement?.dataset?.focus;
    this.list.replaceChildren(...found.map((one) => this.#row(one)));
    if (found.length === 0) {
      const words = text(this.words.value.trim() ? "nothing_found" : "no_conversations");
      this.list.append(element("li", { class: "hint", text: words }));
    }
    if (focus) this.list.querySelector(`[data-focus="${focus}"]`)?.focus();
  }

  /** Puts the focus on the conversation in view, or else on the search. */
  focus() {
    (this.list.querySelector("[aria-current]") ?? this.list.querySelector(".open") ?? this.words).focus();
  }

  #row(conversation) {
    const { library, answering } = this.app;
    const { id, kind } = conversation;
    const title = titleOf(conversation) || text(kind === "raw" ? "untitled_raw" : "untitled");
    const here = id === library.current.id;
    const open = element("button", {
      type: "button", class: "open", title, "aria-current": here ? "page" : null, "data-focus": `open-${id}`,
      onclick: () => this.#open(id),
    }, kind === "raw" ? icon("lines") : null, element("span", { text: title, dir: "auto" }));
    const row = element("li", { class: here ? "row here" : "row" }, open);
    if (answering.isRunning(conversation)) row.append(element("span", { class: "pulse" }));
    const tool = (name, words, action) => iconButton(name, `${text(words)}: ${title}`, action, {
      title: text(words), "data-focus": `${name}-${id}`,
    });
    row.append(element("div", { class: "row-tools" },
      tool("edit", "rename", () => this.#rename(row, conversation, title)),
      tool("save", "export_one", () => this.#export([conversation])),
      tool("bin", "delete", () => this.#delete(conversation, title))));
    return row;
  }

  #begin(kind) {
    this.app.library.begin(kind);
    this.drawer.close();
    this.app.focusInput();
  }

  #open(id) {
    this.app.library.open(id);
    if (this.drawer.isOpen) {
      this.drawer.close();
      this.app.focusInput();
    }
  }

  #rename(row, conversation, title) {
    const input = element("input", {
      type: "text", dir: "auto", "aria-label": text("title_of"), maxlength: "200",
    });
    input.value = title;
    const finish = (keep) => {
      if (this.#renaming !== input) return;
      this.#renaming = null;
      const changed = keep && input.value.trim() !== title;
      if (changed) this.app.library.rename(conversation.id, input.value);
      else this.show();
      this.list.querySelector(`[data-focus="edit-${conversation.id}"]`)?.focus();
    };
    input.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Enter") finish(true);
      if (event.key === "Escape") finish(false);
      if (event.key === "Escape" || event.key === "Enter") event.stopPropagation();
    });
    input.addEventListener("blur", () => finish(true));
    this.#renaming = input;
    row.replaceChildren(input);
    input.select();
    input.focus();
  }

  #delete(conversation, title) {
    const { library, answering, notices } = this.app;
    answering.stop(conversation);
    const removed = library.remove(conversation.id);
    const action = () => library.restore(removed);
    notices.show(sentence("deleted", { title }), { label: text("undo"), action });
    this.focus();
  }

  #export(conversations) {
    const day = new Date().toISOString().slice(0, 10);
    const name = conversations.length === 1 ? `wkv-conversation-${day}.json` : `wkv-conversations-${day}.json`;
    download(new Blob([toFile(conversations)], { type: "application/json" }), name);
  }

  async #import() {
    const { library, notices } = this.app;
    const [file] = this.file.files;
    this.file.value = "";
    if (!file) return;
    try {
      notices.show(text("imported", library.takeIn(fromFile(await file.text()))));
    } catch (error) {
      const known = error instanceof BadFile;
      const words = known ? text(error.reason, error.values) : text("import_unreadable");
      notices.show(words, { lasting: true });
    }
  }
}

/**
 * On a narrow window the list lies in a drawer. Closed, it cannot be reached by keyboard; open, nothing
 * but it can. Event: "change" after it was opened or closed.
 */
class Drawer extends EventTarget {
  constructor(drawer, others, shade, button) {
    super();
    Object.assign(this, { drawer, others, button, isOpen: false });
    this.narrow = matchMedia("(max-width: 800px)");
    this.narrow.addEventListener("change", () => this.close());
    button.addEventListener("click", () => this.open());
    shade.addEventListener("click", () => this.close());
    document.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.isOpen || event.isComposing) return;
      event.preventDefault();
      this.close();
    });
    this.#apply();
  }

  open() {
    this.isOpen = true;
    this.#apply();
    this.drawer.querySelector("button").focus();
  }

  close() {
    const wasOpen = this.isOpen;
    this.isOpen = false;
    this.#apply();
    if (wasOpen && this.narrow.matches) this.button.focus();
  }

  #apply() {
    document.body.classList.toggle("drawer-open", this.isOpen);
    this.button.setAttribute("aria-expanded", String(this.isOpen));
    this.drawer.inert = this.narrow.matches && !this.isOpen;
    for (const other of this.others) other.inert = this.isOpen;
    this.dispatchEvent(new Event("change"));
  }
}
