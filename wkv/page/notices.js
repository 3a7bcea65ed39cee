/** Short news at the edge of the page, with a button if something can be done about it. */

import { element, iconButton, textButton } from "./dom.js";
import { text } from "./language.js";

const SECONDS = 9;

export class Notices {
  constructor(place) {
    this.place = place;
  }

  /** Shows words until they are closed or, unless they are `lasting`, for some seconds. */
  show(words, { lasting = false, label = null, action = null } = {}) {
    for (const old of this.place.children) if (old.dataset.words === words) old.remove();
    const notice = element("div", { class: "notice", "data-words": words }, element("p", { text: words }));
    const close = () => notice.remove();
    if (action) {
      notice.append(textButton(label, () => {
        close();
        action();
      }));
    }
    notice.append(iconButton("close", text("close"), close));
    this.place.append(notice);
    if (!lasting) this.#closeLater(notice, close);
  }

  /** Closes when its time is over, but not while somebody is at it. */
  #closeLater(notice, close) {
    const timer = setInterval(() => {
      if (!notice.isConnected) clearInterval(timer);
      else if (!notice.matches(":hover, :focus-within")) close();
    }, SECONDS * 1000);
  }
}
