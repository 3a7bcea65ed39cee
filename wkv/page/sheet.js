/** A sheet at the side: a dialog with a heading; Escape, its button or a click beside it close it. */

import { element, iconButton } from "./dom.js";
import { text } from "./language.js";

export class Sheet {
  /** `opener` gets the focus at the end where the element that had it before is gone. */
  constructor(dialog, opener) {
    this.dialog = dialog;
    dialog.addEventListener("close", () => {
      if (document.activeElement === document.body) opener.focus();
    });
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close();
    });
  }

  /** Fills the sheet anew, with its heading, and keeps the focus where it was. */
  fill(title, ...content) {
    const focused = this.dialog.contains(document.activeElement) ? document.activeElement : null;
    const top = this.dialog.querySelector(".sheet-body")?.scrollTop ?? 0;
    const body = element("div", { class: "sheet-body" }, ...content);
    const close = iconButton("close", text("close"), () => this.dialog.close(), { "data-focus": "close" });
    const head = element("div", { class: "sheet-head" },
      element("h2", { id: `${this.dialog.id}-title`, text: title }), close);
    this.dialog.replaceChildren(head, ...this.dialog.querySelectorAll(".notices"), body);
    body.scrollTop = top;
    if (focused && !focused.isConnected) {
      (this.dialog.querySelector(`[data-focus="${focused.dataset.focus}"]`) ?? close).focus();
    }
  }

  open() {
    if (!this.dialog.open) this.dialog.showModal();
  }

  get isOpen() {
    return this.dialog.open;
  }
}
