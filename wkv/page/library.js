/** The conversations there are and the one in view: opened, named, removed, brought in. */

import { isEmpty, mentions, newConversation, newId, touch } from "./conversation.js";
import { readConversation } from "./exchange.js";
import * as store from "./store.js";

/** Events: "change" when the list or the one in view changed, "full" when the browser keeps no more. */
export class Library extends EventTarget {
  #all = new Map();
  #full = false;

  /** `isBusy(conversation)` tells whether it is being written here, and so must not be replaced. */
  constructor(isBusy) {
    super();
    this.isBusy = isBusy;
    for (const conversation of store.loadConversations()) this.#all.set(conversation.id, conversation);
    this.current = this.#all.get(store.loadCurrent()) ?? newConversation();
    store.onOtherTab((id) => this.#reread(id));
  }

  /** Newest first; with words, those in which they occur. */
  list(words = "") {
    return [...this.#all.values()].filter((one) => mentions(one, words))
      .sort((one, other) => other.updated - one.updated);
  }

  open(id) {
    this.current = this.#all.get(id) ?? this.current;
    this.#tell();
  }

  /** Begins another conversation; it is listed and kept once something is in it. */
  begin(kind, state = null) {
    this.current = newConversation(kind);
    this.current.state = state;
    this.#tell();
  }

  save(conversation, changed = true) {
    if (changed) touch(conversation);
    if (isEmpty(conversation) && !this.#all.has(conversation.id)) return;
    const known = this.#all.has(conversation.id);
    this.#all.set(conversation.id, conversation);
    this.#keep(conversation);
    if (changed || !known) this.#tell();
  }

  /** Keeps what has been written so far; the list stays as it is. */
  keepPartial(conversation) {
    if (this.#all.has(conversation.id)) this.#keep(conversation);
  }

  rename(id, title) {
    const conversation = this.#all.get(id);
    conversation.title = title.trim();
    this.save(conversation, false);
    this.#tell();
  }

  remove(id) {
    const conversation = this.#all.get(id);
    this.#all.delete(id);
    store.removeConversation(id);
    if (this.current.id === id) this.current = newConversation();
    this.#tell();
    return conversation;
  }

  /** Puts a removed conversation back and into view. */
  restore(conversation) {
    this.save(conversation, false);
    this.open(conversation.id);
  }

  /** Takes conversations in beside those there are. Gives how many were added and how many known. */
  takeIn(conversations) {
    let known = 0;
    for (const conversation of conversations) {
      const here = this.#all.get(conversation.id);
      if (here && JSON.stringify(readConversation(here)) === JSON.stringify(conversation)) {
        known += 1;
        continue;
      }
      if (here) conversation.id = newId();
      this.#all.set(conversation.id, conversation);
      this.#keep(conversation);
    }
    this.#tell();
    return { added: conversations.length - known, known };
  }

  #reread(id) {
    if (this.#all.has(id) && this.isBusy(this.#all.get(id))) return;
    const conversation = store.loadConversation(id);
    if (conversation === null) this.#all.delete(id);
    else this.#all.set(id, conversation);
    if (this.current.id === id && conversation !== null) this.current = conversation;
    this.#tell();
  }

  #keep(conversation) {
    const full = !store.saveConversation(conversation);
    if (full && !this.#full) this.dispatchEvent(new Event("full"));
    this.#full = full;
  }

  #tell() {
    store.saveCurrent(this.current.id);
    this.dispatchEvent(new Event("change"));
  }
}
