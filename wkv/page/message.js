/** One message on the page: its thoughts, text, end, buttons and figures. */

import { copyButton, element, iconButton, textButton } from "./dom.js";
import { number, text } from "./language.js";
import { renderMarkdown } from "./markdown.js";
import { problemBox } from "./problems.js";

export class MessageView {
  #editor = null;

  /** `actions`: edit, regenerate, goOn, turn and enterKey, each given the message. */
  constructor(message, actions) {
    this.message = message;
    this.actions = actions;
    this.thinking = message.role === "assistant" ? thinkingView() : null;
    this.heading = element("h2", { class: "visually-hidden", id: `heading-${message.id}` });
    const look = message.role === "user" ? "body plain" : "body markdown";
    this.body = element("div", { class: look, dir: "auto" });
    this.dots = dots();
    this.after = element("div", { class: "after" });
    this.foot = element("div", { class: "foot" });
    this.element = element("article", {
      class: `message ${message.role}`, "data-message": message.id, "aria-labelledby": this.heading.id,
    }, this.heading, ...(this.thinking ? [this.thinking.element, this.dots] : []),
      this.body, this.after, this.foot);
  }

  /**
   * Draws everything. `place`: the message's `number`, {at, of} among its siblings, `last`, `writing`
   * (this), `busy` (any).
   */
  show(place) {
    this.place = place;
    const from = this.message.role === "user" ? "from_user" : "from_assistant";
    this.heading.textContent = text(from, { n: place.number });
    this.element.classList.toggle("writing", place.writing);
    this.element.setAttribute("aria-busy", String(place.writing));
    this.progress();
    this.#showAfter();
    this.#showFoot();
  }

  /** Draws what grows while the model writes. */
  progress() {
    const { message } = this;
    if (message.role === "user") {
      this.body.textContent = message.text;
      return;
    }
    this.thinking.show(message, this.place.writing);
    this.dots.hidden = !this.place.writing || message.text !== "" || message.reasoning !== "";
    renderMarkdown(this.body, message.text);
  }

  #showAfter() {
    const { message, actions, place } = this;
    this.after.replaceChildren();
    if (message.role !== "assistant" || place.writing) return;
    const note = noteOf(message);
    if (note) this.after.append(element("p", { class: "note", text: note }));
    if (message.problem && !place.busy) {
      this.after.append(problemBox(message.problem, {
        retry: () => actions.retry(message),
        enterKey: () => actions.enterKey(),
      }));
    }
  }

  #showFoot() {
    const { message, actions, place } = this;
    this.foot.replaceChildren();
    if (place.of > 1) this.foot.append(this.#branches());
    if (place.writing) return;
    const tools = element("div", { class: "tools" });
    const add = (name, words, action) => {
      tools.append(iconButton(name, text(words), action, { "data-action": name }));
    };
    if (message.text) {
      tools.append(copyButton(text("copy"), text("copied"), () => message.text, { "data-action": "copy" }));
    }
    if (!place.busy) {
      add("edit", "edit", () => this.#edit());
      if (message.role === "assistant") {
        add("again", "regenerate", () => actions.regenerate(message));
        if (place.last && message.text && message.finish !== "stop") {
          const look = { name: "onward", class: "button small quiet", "data-action": "onward" };
          tools.append(textButton(text("go_on"), () => actions.goOn(message), look));
        }
      }
    }
    this.foot.append(tools);
    if (message.stats) this.foot.append(statsView(message.stats));
  }

  #branches() {
    const { at, of } = this.place;
    const step = (name, words, by, off) => iconButton(name, text(words),
      () => this.actions.turn(this.message, by), { "data-action": name, "aria-disabled": String(off) });
    return element("div", { class: "branches", role: "group", "aria-label": text("branch", { at, of }) },
      step("left", "previous", -1, at === 1),
      element("span", { class: "branch", text: `${at}/${of}` }),
      step("right", "next", 1, at === of));
  }

  #edit() {
    if (this.#editor) return;
    const { message, actions } = this;
    const isUser = message.role === "user";
    const area = element("textarea", { "aria-label": text("edit_label"), rows: "1", dir: "auto" });
    area.value = message.text;
    const leave = () => {
      this.#editor.remove();
      this.#editor = null;
      this.element.classList.remove("editing");
      this.foot.querySelector("[data-action=edit]")?.focus();
    };
    const done = () => {
      if (isUser && !area.value.trim()) return;
      leave();
      if (isUser || area.value !== message.text) actions.edit(message, area.value);
    };
    area.addEventListener("input", () => growToFit(area));
    area.addEventListener("keydown", (event) => {
      if (event.isComposing || event.keyCode === 229) return;
      if (event.key === "Enter" && !event.shiftKey && (isUser || event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        done();
      }
    });
    this.#editor = element("div", { class: "editor" }, area,
      element("p", { class: "hint", text: text(isUser ? "edit_note_user" : "edit_note_assistant") }),
      element("div", { class: "buttons" },
        textButton(text(isUser ? "edit_send" : "edit_save"), done, { class: "button primary small" }),
        textButton(text("cancel"), leave, { class: "button quiet small" })));
    this.#editor.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || event.isComposing) return;
      event.stopPropagation();
      leave();
    });
    this.element.classList.add("editing");
    this.body.after(this.#editor);
    growToFit(area);
    area.focus();
  }
}

/** Makes a text area as tall as its text; its style sheet says how tall at most. */
export function growToFit(area) {
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + area.offsetHeight - area.clientHeight}px`;
}

/** Tokens and their rate; the time to the first token and the prompt's tokens show when asked for. */
export function statsView(stats) {
  const count = stats.tokens === 1 ? "one_token" : "tokens";
  const parts = [text(stats.counted === false ? "about_tokens" : count, { n: stats.tokens })];
  if (stats.rate !== undefined) parts.push(text("rate", { n: number(stats.rate, stats.rate < 10 ? 1 : 0) }));
  const more = [];
  if (stats.first !== undefined) more.push(text("first", { seconds: number(stats.first) }));
  if (stats.cached !== undefined) more.push(text("cached", stats));
  const line = { class: "stats", text: parts.join(" · "), title: more.join("\n"), "data-action": "stats" };
  return element("details", { class: "figures" },
    element("summary", line), ...more.map((words) => element("p", { text: words })));
}

function noteOf(message) {
  if (message.finish === "length") return text("cut_off");
  if (message.finish === "stopped") return text("stopped");
  if (message.finish === "stop" && !message.text.trim()) return text("no_answer");
  return null;
}

function dots() {
  return element("p", { class: "dots", hidden: true, role: "img", "aria-label": text("reading") },
    element("span"), element("span"), element("span"));
}

/** The folded thoughts. */
function thinkingView() {
  const words = element("summary");
  const body = element("div", { class: "thoughts markdown" });
  const made = element("details", { class: "thinking", hidden: true }, words, body);
  const show = (message, writing) => {
    made.hidden = !message.reasoning;
    if (made.hidden) return;
    const going = writing && message.thought === null;
    made.classList.toggle("going", going);
    const seconds = message.thought === null ? null : number(message.thought, 1);
    if (going) words.textContent = text("thinking");
    else words.textContent = seconds === null ? text("thought_some") : text("thought", { seconds });
    renderMarkdown(body, message.reasoning);
  };
  return { element: made, show };
}
