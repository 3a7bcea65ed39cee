/** The box one writes in: Enter sends, Shift+Enter breaks the line, drafts are kept. */

import { growToFit } from "./message.js";
import { loadDraft, saveDraft } from "./store.js";

const NEW = "new";

export class Composer {
  #draftOf = NEW;

  constructor({ form, input, send, stop }, onSend, onStop) {
    Object.assign(this, { form, input, send, stop, onSend });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    stop.addEventListener("click", onStop);
    input.addEventListener("input", () => {
      saveDraft(this.#draftOf, input.value);
      this.#fit();
    });
    input.addEventListener("keydown", (event) => {
      // While an input method composes, Enter chooses a word.
      if (event.isComposing || event.keyCode === 229) return;
      if (event.key !== "Enter" || event.shiftKey || event.altKey) return;
      event.preventDefault();
      this.#submit();
    });
    addEventListener("resize", () => this.#fit());
  }

  /** Shows the draft of a conversation, and whether an answer is being written in it. */
  show(conversation, isNew, isRunning) {
    const draftOf = isNew ? NEW : conversation.id;
    if (draftOf !== this.#draftOf || !this.shown) {
      this.#draftOf = draftOf;
      this.input.value = loadDraft(draftOf);
      this.shown = true;
    }
    const hadFocus = [this.send, this.stop].includes(document.activeElement);
    this.running = isRunning;
    this.send.hidden = isRunning;
    this.stop.hidden = !isRunning;
    if (hadFocus) this.input.focus();
    this.#fit();
  }

  #submit() {
    const words = this.input.value;
    if (this.running || !words.trim()) return;
    this.input.value = "";
    saveDraft(this.#draftOf, "");
    this.#fit();
    this.onSend(words.trim());
  }

  #fit() {
    this.send.setAttribute("aria-disabled", String(!this.input.value.trim()));
    growToFit(this.input);
  }
}
