/** A sheet at the side: a dialog with a heading; Escape, its button or a click beside it close it. */

import { element, iconButton } from "./dom.js";
import { text } from "./language.js";

export class Sheet {
  constructor(dialog) {
    this.dialog = dialog;
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close();
    });
  }

  /** Fills the sheet anew, with its heading, and keeps the focus where it was. */
  fill(title, ...content) {
    const focus = this.dialog.contains(document.activeElement) && document.activeElement.dataset.focus;
    const top = this.dialog.querySelector(".sheet-body")?.scrollTop ?? 0;
    const body = element("div", { class: "sheet-body" }, ...content);
    this.dialog.replaceChildren(
      element("div", { class: "sheet-head" },
        element("h2", { id: `${this.dialog.id}-title`, text: title }),
        iconButton("close", text("close"), () => this.dialog.close(), { "data-focus": "close" })),
      body);
    body.scrollTop = top;
    if (focus) this.dialog.querySelector(`[data-focus="${focus}"]`)?.focus();
  }

  open() {
    if (!this.dialog.open) this.dialog.showModal();
  }

  get isOpen() {
    return this.dialog.open;
  }
}
