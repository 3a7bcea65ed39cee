/** The chat: what one does with messages, and what is shown of it. */

import { Announcer } from "./announcer.js";
import { Composer } from "./composer.js";
import { add, choose, history, isEmpty, leaf, path, siblings, turn } from "./conversation.js";
import { element } from "./dom.js";
import { Following } from "./following.js";
import { text } from "./language.js";
import { chatFields, withSystem } from "./parameters.js";
import { problemBox } from "./problems.js";
import { Thread } from "./thread.js";

const KEEP_EVERY = 1000;

/** What the built-in model can answer; it knows English only. */
const DEMO_SUGGESTIONS = ["What is 12 + 30?", "Tell me a story", "Write rabbit backwards", "What can you do?"];

export class Chat {
  #kept = 0;
  #targets = new Map();

  /** `app`: api, library, answering, settings, model and what else `main.js` puts together. */
  constructor(app) {
    const $ = (id) => document.getElementById(id);
    this.app = app;
    this.welcome = $("welcome");
    this.announcer = new Announcer($("announcer"));
    this.following = new Following($("scroller"), $("to-bottom"));
    this.thread = new Thread($("thread"), this.following, this.#actions());
    const parts = { form: $("composer"), input: $("input"), send: $("send"), stop: $("stop") };
    this.composer = new Composer(parts, (words) => this.send(words), () => this.stop());
    app.answering.addEventListener("progress", ({ detail }) => this.#progress(detail));
    app.answering.addEventListener("end", ({ detail }) => this.#end(detail));
  }

  /** Draws the conversation in view. */
  show() {
    const { library, answering } = this.app;
    const conversation = library.current;
    const target = answering.isRunning(conversation) ? this.#targets.get(conversation.id) : null;
    this.#showWelcome(isEmpty(conversation));
    this.thread.show(conversation, target);
    this.composer.show(conversation, isEmpty(conversation), Boolean(target));
  }

  /** Draws all of it anew, because the words have changed. */
  redraw() {
    this.thread.clear();
    this.show();
  }

  send(words) {
    const { library, answering } = this.app;
    const conversation = library.current;
    if (answering.isRunning(conversation)) return;
    const question = add(conversation, leaf(conversation).id, "user", words);
    this.following.toEnd();
    this.#answer(conversation, question);
  }

  stop() {
    this.app.answering.stop(this.app.library.current);
  }

  #actions() {
    const here = () => this.app.library.current;
    return {
      edit: (message, words) => this.#edit(here(), message, words),
      regenerate: (message) => this.#again(here(), message),
      retry: (message) => this.#retry(here(), message),
      goOn: (message) => this.#write(here(), message, history(here(), message.id, true)),
      enterKey: () => this.app.openSettings("key"),
      turn: (message, step) => {
        turn(here(), message.id, step);
        this.app.library.save(here(), false);
        this.show();
      },
    };
  }

  #edit(conversation, message, words) {
    const { library, answering } = this.app;
    if (answering.isRunning(conversation)) return;
    if (message.role === "user") {
      this.#answer(conversation, add(conversation, message.parent, "user", words.trim()));
    } else {
      add(conversation, message.parent, "assistant", words, { finish: "edited" });
      library.save(conversation);
      this.show();
    }
  }

  /** A new answer beside the old one. */
  #again(conversation, message) {
    this.#answer(conversation, conversation.messages[message.parent]);
  }

  /** Asks again in place where nothing had come, and beside it where something had. */
  #retry(conversation, message) {
    if (message.text || message.reasoning) this.#again(conversation, message);
    else this.#write(conversation, message, history(conversation, message.id));
  }

  #answer(conversation, question) {
    const answer = add(conversation, question.id, "assistant", "");
    this.#write(conversation, answer, history(conversation, question.id, true));
  }

  /** Lets the model write to `answer`, after `messages` (which may end with its beginning). */
  #write(conversation, answer, messages) {
    const { api, answering, library, settings, model } = this.app;
    if (answering.isRunning(conversation)) return;
    const body = { ...chatFields(settings, model), ...opening(conversation, settings, messages) };
    choose(conversation, answer.id);
    this.#targets.set(conversation.id, answer);
    this.announcer.begin(text("reading"));
    answering.run(conversation, answer, (signal) => api.chat(body, signal));
    library.save(conversation);
    this.show();
  }

  #progress({ conversation, target }) {
    if (conversation.kind !== "chat") return;
    if (performance.now() - this.#kept > KEEP_EVERY) {
      this.#kept = performance.now();
      this.app.library.keepPartial(conversation);
    }
    if (conversation !== this.app.library.current) return;
    this.thread.progress(target);
    this.announcer.follow(target.text);
  }

  #end({ conversation, target }) {
    if (conversation.kind !== "chat") return;
    this.#targets.delete(conversation.id);
    this.app.library.save(conversation);
    if (conversation !== this.app.library.current) return;
    const words = { stop: "answer_done", length: "cut_off", stopped: "answer_stopped" }[target.finish];
    this.announcer.end(target.text, words ? text(words) : "");
    this.show();
    if (target.finish === "stop") this.#explainSameness(conversation, target);
  }

  /** Asked again, a model at temperature 0 says the same; who wonders is told why. */
  #explainSameness(conversation, answer) {
    const { settings, model, notices } = this.app;
    if ((settings.temperature ?? model.wkv?.sampling?.temperature) !== 0 || !answer.text) return;
    const others = siblings(conversation, answer.id).filter((id) => id !== answer.id);
    if (!others.some((id) => conversation.messages[id].text === answer.text)) return;
    notices.show(text("same_again"), { label: text("parameters"), action: () => this.app.openSettings("temperature") });
  }

  #showWelcome(empty) {
    this.welcome.hidden = !empty;
    if (!empty) return;
    const { model, problem } = this.app;
    const retry = () => this.app.findModels();
    const enterKey = () => this.app.openSettings("key");
    this.welcome.replaceChildren(
      element("h2", { text: model.id || "wkv" }),
      element("p", { class: "greeting", text: text("greeting") }),
      element("p", { class: "facts", text: factsOf(model) }),
      ...(isDemo(model) ? [element("p", { class: "facts", text: text("english_only") })] : []),
      problem ? problemBox(problem, { retry, enterKey }) : this.#suggestions(model));
  }

  #suggestions(model) {
    const own = [1, 2, 3, 4].map((n) => text(`suggestion_${n}`));
    const chips = (isDemo(model) ? DEMO_SUGGESTIONS : own).map((words) => {
      const onclick = () => {
        this.send(words);
        this.app.focusInput();
      };
      return element("button", { type: "button", class: "chip", text: words, onclick });
    });
    return element("div", { class: "chips", role: "group", "aria-label": text("suggestions") }, ...chips);
  }

  /** What a state of the conversation in view would have read, or null for nothing. */
  read() {
    const { library, settings } = this.app;
    const conversation = library.current;
    if (path(conversation).length === 0) return null;
    return opening(conversation, settings, history(conversation, leaf(conversation).id, true));
  }
}

const isDemo = (model) => model.id.startsWith("demo-");

/** A model's generation, size and strategy, as far as the server tells. */
function factsOf({ wkv }) {
  if (wkv?.generation === undefined) return "";
  const { generation, n_layer: layers, n_embd: width, strategy } = wkv;
  return text("model_line", { generation, layers, width: String(width), strategy });
}

/** Messages and what they follow: a state, which has read its own beginning, or the system prompt. */
function opening({ state }, settings, messages) {
  return state ? { messages, state: state.id } : { messages: withSystem(settings, messages) };
}
