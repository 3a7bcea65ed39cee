/** Keeps the end of a growing text in view, unless the reader has scrolled up. */

/** How far from the end, in pixels, still counts as being there, and as having it in view. */
const AT_END = 8;
const IN_VIEW = 80;

export class Following {
  #pinned = true;
  #last = 0;

  /** `scroller` scrolls; `button`, shown when the end is out of view, leads back to it. */
  constructor(scroller, button) {
    this.scroller = scroller;
    this.button = button;
    scroller.addEventListener("scroll", () => this.#look(), { passive: true });
    new ResizeObserver(() => this.follow()).observe(scroller);
    button.addEventListener("click", () => this.toEnd());
  }

  /** To be called when the text has grown. */
  follow() {
    if (this.#pinned) this.scroller.scrollTop = this.scroller.scrollHeight;
    this.button.hidden = this.#pinned || this.#distance() < IN_VIEW;
  }

  toEnd() {
    this.#pinned = true;
    this.follow();
  }

  /** Only a move upwards is the reader's; a text that has grown also leaves the end behind. */
  #look() {
    const { scrollTop } = this.scroller;
    if (this.#distance() < AT_END) this.#pinned = true;
    else if (scrollTop < this.#last) this.#pinned = false;
    this.#last = scrollTop;
    this.button.hidden = this.#pinned || this.#distance() < IN_VIEW;
  }

  #distance() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    return scrollHeight - scrollTop - clientHeight;
  }
}
