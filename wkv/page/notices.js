/** Short news below the title: one at a time, and never over anything. */

import { element, iconButton, textButton } from "./dom.js";
import { text } from "./language.js";

const SECONDS = 9;

export class Notices {
  #timer = null;

  /** `leave()` takes the focus when a notice that had it is closed. */
  constructor(place, leave) {
    Object.assign(this, { place, leave, home: place.previousElementSibling });
    // A dialog is closed: what it showed is still news.
    document.addEventListener("close", () => this.settle(), true);
  }

  /**
   * Shows words (a text or nodes) in place of what was shown, until they are closed or, unless they
   * are `lasting`, for some seconds.
   */
  show(words, { lasting = false, label = null, action = null } = {}) {
    this.settle();
    const close = () => this.#close();
    this.#close();
    this.place.append(element("div", { class: "notice" },
      element("p", {}, ...[words].flat()),
      action ? textButton(label, () => this.#close(action)) : null,
      iconButton("close", text("close"), close)));
    if (!lasting) this.#timer = setInterval(() => this.#expire(), SECONDS * 1000);
  }

  /** Goes where it can be reached: into the open dialog or drawer, or else below the title. */
  settle() {
    const front = document.querySelector("dialog[open] > .sheet-head, .drawer-open .brand") ?? this.home;
    if (front.nextElementSibling !== this.place) front.after(this.place);
  }

  #close(action = () => {}) {
    clearInterval(this.#timer);
    const hadFocus = this.place.contains(document.activeElement);
    this.place.replaceChildren();
    action();
    if (hadFocus && document.activeElement === document.body) this.leave();
  }

  /** The time of a notice is over, but not while somebody is at it. */
  #expire() {
    if (!this.place.matches(":hover, :focus-within")) this.#close();
  }
}
