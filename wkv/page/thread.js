/** The messages in view, first to last, with the scrolling that goes with them. */

import { path, siblings } from "./conversation.js";
import { nameRegions } from "./markdown.js";
import { MessageView } from "./message.js";

export class Thread {
  #views = new Map();
  #waiting = false;

  constructor(place, following, actions) {
    this.place = place;
    this.following = following;
    this.actions = actions;
  }

  /** Shows a conversation's path; `target` is the message that is being written, if one is. */
  show(conversation, target) {
    const focus = this.#focus();
    const messages = path(conversation);
    const views = new Map();
    messages.forEach((message, index) => {
      const view = this.#views.get(message.id) ?? new MessageView(message, this.actions);
      view.message = message;
      views.set(message.id, view);
      const all = siblings(conversation, message.id);
      view.show({
        number: messages.slice(0, index + 1).filter(({ role }) => role === message.role).length,
        at: all.indexOf(message.id) + 1, of: all.length, last: index === messages.length - 1,
        writing: message.id === target?.id, busy: Boolean(target),
      });
      if (this.place.children[index] !== view.element) {
        this.place.insertBefore(view.element, this.place.children[index] ?? null);
      }
    });
    while (this.place.children.length > messages.length) this.place.lastChild.remove();
    this.#views = views;
    nameRegions(this.place);
    this.#refocus(focus);
    this.following.follow();
  }

  /** Shows what a message has grown by, at most once a frame. */
  progress(message) {
    if (this.#waiting) return;
    this.#waiting = true;
    requestAnimationFrame(() => {
      this.#waiting = false;
      this.#views.get(message.id)?.progress();
      nameRegions(this.place);
      this.following.follow();
    });
  }

  /** Begins anew, for instance in another language. */
  clear() {
    this.#views.clear();
    this.place.replaceChildren();
  }

  /** Which button of which message has the focus, to give it back after drawing. */
  #focus() {
    const at = document.activeElement;
    const message = at?.closest(".message");
    if (!message || !this.place.contains(message) || !at.dataset.action) return null;
    return { index: [...this.place.children].indexOf(message), action: at.dataset.action };
  }

  #refocus(focus) {
    if (focus === null) return;
    const message = this.place.children[focus.index] ?? this.place.lastElementChild;
    const button = message?.querySelector(`[data-action=${focus.action}]`);
    if (button) button.focus({ preventScroll: true });
    else document.querySelector("#input").focus({ preventScroll: true });
  }
}
