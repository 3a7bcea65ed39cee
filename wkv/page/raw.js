/** Raw text: one text that the model goes on with, letter for letter. */

import { isEmpty } from "./conversation.js";
import { Following } from "./following.js";
import { statsView } from "./message.js";
import { completionFields } from "./parameters.js";
import { problemBox } from "./problems.js";

const MOST_STEPS = 50;

export class Raw {
  #targets = new Map();
  #steps = new Map();

  constructor(app) {
    const $ = (id) => document.getElementById(id);
    Object.assign(this, {
      app, area: $("raw-text"), goOn: $("raw-go-on"), halt: $("raw-stop"),
      back: $("raw-take-back"), stats: $("raw-stats"), problem: $("raw-problem"),
    });
    this.following = new Following(this.area, document.createElement("button"));
    this.area.addEventListener("input", () => this.#typed());
    this.area.addEventListener("keydown", (event) => {
      if (event.isComposing || event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      this.write();
    });
    this.goOn.addEventListener("click", () => this.write());
    this.halt.addEventListener("click", () => this.stop());
    this.back.addEventListener("click", () => this.#takeBack());
    app.answering.addEventListener("progress", ({ detail }) => this.#progress(detail));
    app.answering.addEventListener("end", ({ detail }) => this.#end(detail));
  }

  show() {
    const { library, answering } = this.app;
    const conversation = library.current;
    const running = answering.isRunning(conversation);
    const target = this.#targets.get(conversation.id);
    const shown = running ? target.text : conversation.text;
    if (this.area.value !== shown) this.area.value = shown;
    this.area.readOnly = running;
    const hadFocus = [this.goOn, this.halt].includes(document.activeElement);
    this.goOn.hidden = running;
    this.halt.hidden = !running;
    if (hadFocus) (running ? this.halt : this.goOn).focus();
    this.back.disabled = running || !this.#stepsOf(conversation).length;
    this.stats.replaceChildren(...(!running && target?.stats ? [statsView(target.stats)] : []));
    this.problem.replaceChildren();
    if (!running && target?.problem) {
      const enterKey = () => this.app.openSettings("key");
      this.problem.append(problemBox(target.problem, { retry: () => this.write(), enterKey }));
    }
    this.following.follow();
  }

  write() {
    const { api, answering, library, settings, model } = this.app;
    const conversation = library.current;
    if (answering.isRunning(conversation) || !conversation.text) return;
    const steps = this.#stepsOf(conversation);
    steps.push(conversation.text);
    if (steps.length > MOST_STEPS) steps.shift();
    const target = { text: conversation.text, reasoning: "", thought: null, stats: null };
    this.#targets.set(conversation.id, target);
    const body = { ...completionFields(settings, model), prompt: conversation.text };
    if (conversation.state) body.state = conversation.state.id;
    this.following.toEnd();
    answering.run(conversation, target, (signal) => api.complete(body, signal));
    this.show();
  }

  stop() {
    this.app.answering.stop(this.app.library.current);
  }

  #takeBack() {
    const conversation = this.app.library.current;
    conversation.text = this.#stepsOf(conversation).pop() ?? conversation.text;
    this.#targets.delete(conversation.id);
    this.app.library.save(conversation);
    this.show();
    this.area.focus();
  }

  #typed() {
    const { library } = this.app;
    const wasEmpty = isEmpty(library.current);
    library.current.text = this.area.value;
    // The list is drawn again only when the text enters it or when its title may have changed.
    if (wasEmpty || this.area.selectionStart < 80) library.save(library.current);
    else library.keepPartial(library.current);
  }

  #progress({ conversation, target }) {
    if (conversation.kind !== "raw") return;
    conversation.text = target.text;
    if (conversation !== this.app.library.current) return;
    this.area.value = target.text;
    this.following.follow();
  }

  #end({ conversation }) {
    if (conversation.kind !== "raw") return;
    this.app.library.save(conversation);
    if (conversation === this.app.library.current) this.show();
  }

  #stepsOf({ id }) {
    if (!this.#steps.has(id)) this.#steps.set(id, []);
    return this.#steps.get(id);
  }
}
