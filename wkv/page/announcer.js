/** Reads an answer out to screen readers: paragraph by paragraph, not token by token. */

import { element } from "./dom.js";

const KEPT = 20;

export class Announcer {
  #said = 0;

  constructor(place) {
    this.place = place;
  }

  begin(words) {
    this.#said = 0;
    this.#say(words);
  }

  /** Says the paragraphs of a growing text that are complete. */
  follow(text) {
    const end = text.lastIndexOf("\n\n");
    if (end > this.#said) this.#upTo(text, end);
  }

  /** Says the rest of the text, and then how it ended. */
  end(text, words) {
    this.#upTo(text, text.length);
    this.#say(words);
  }

  #upTo(text, end) {
    this.#say(text.slice(this.#said, end).trim());
    this.#said = end;
  }

  #say(words) {
    if (words) this.place.append(element("p", { text: words }));
    while (this.place.children.length > KEPT) this.place.firstChild.remove();
  }
}
