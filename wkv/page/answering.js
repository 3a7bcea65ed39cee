/**
 * Answers being written: from the server's stream into the conversation, one run a conversation.
 *
 * Nothing is thrown at the page: what goes wrong is kept with the message as its `problem`, beside
 * what had come by then.
 */

import { ServerError } from "./api.js";

const SHORTEST = 200;

export class Answering extends EventTarget {
  #runs = new Map();
  #leaving = false;

  isRunning(conversation) {
    return this.#runs.has(conversation.id);
  }

  stop(conversation) {
    this.#runs.get(conversation.id)?.controller.abort();
  }

  /** The page is about to be left: streams that the browser now cuts are stopped, not broken. */
  prepareToLeave() {
    this.#leaving = true;
    setTimeout(() => { this.#leaving = false; }, 3000);
  }

  /** Stops every run, because the page is left; gives the conversations whose answers end here. */
  leave() {
    const left = [...this.#runs.values()];
    for (const { controller, target } of left) {
      target.finish = "stopped";
      controller.abort();
    }
    return left.map(({ conversation }) => conversation);
  }

  /**
   * Writes to `target` what a stream gives; ends when the stream does. `open(signal)` begins the
   * stream. Events: "progress" after each piece, "end" at the end.
   */
  async run(conversation, target, open) {
    const controller = new AbortController();
    this.#runs.set(conversation.id, { controller, conversation, target });
    const clock = new Clock(target.stats);
    Object.assign(target, { finish: null, problem: null });
    const tell = (name) => this.dispatchEvent(new CustomEvent(name, { detail: { conversation, target } }));
    try {
      let finish = null;
      for await (const chunk of open(controller.signal)) {
        finish = take(chunk, target, clock) ?? finish;
        tell("progress");
      }
      target.finish = finish ?? "stop";
    } catch (error) {
      if (error.name === "AbortError" || this.#leaving) {
        target.finish = "stopped";
      } else {
        if (!(error instanceof ServerError)) console.error(error);
        const { kind = "failed", detail = String(error), wait = null } = error;
        Object.assign(target, { finish: "error", problem: { kind, detail, wait } });
      }
    }
    target.stats = clock.stats();
    if (target.reasoning && target.thought === null) target.thought = clock.thought();
    this.#runs.delete(conversation.id);
    tell("end");
  }
}

/** Takes one chunk of either kind of completion in; gives the reason of the end if it names one. */
function take(chunk, target, clock) {
  if (chunk.usage) clock.usage = chunk.usage;
  const choice = chunk.choices?.[0];
  if (choice === undefined) return null;
  const reasoning = choice.delta?.reasoning ?? "";
  const content = choice.delta?.content ?? choice.text ?? "";
  if (reasoning || content) clock.tick();
  if (reasoning) clock.think();
  if (content && target.reasoning && target.thought === null) target.thought = clock.thought();
  target.reasoning += reasoning;
  target.text += content;
  return choice.finish_reason ?? null;
}

/** Measures a run; what an earlier run of the same message wrote counts as well. */
class Clock {
  #begin = performance.now();
  #first = null;
  #last = null;
  #thinking = null;
  #pieces = 0;

  constructor(before) {
    this.before = before;
    this.usage = null;
  }

  tick() {
    this.#last = performance.now();
    this.#first ??= this.#last;
    this.#pieces += 1;
  }

  think() {
    this.#thinking ??= performance.now();
  }

  thought() {
    return this.#thinking === null ? null : (performance.now() - this.#thinking) / 1000;
  }

  /** Tokens, how many a second after the first, seconds up to the first, and the prompt's tokens. */
  stats() {
    if (this.#first === null) return this.before;
    const tokens = this.usage?.completion_tokens ?? this.#pieces;
    // A quick model's pieces come together; then only the whole time tells anything.
    const writing = this.#last - this.#first;
    const seconds = (writing >= SHORTEST ? writing : this.#last - this.#begin) / 1000;
    const stats = {
      tokens: tokens + (this.before?.tokens ?? 0),
      counted: this.usage !== null && this.before?.counted !== false,
      first: (this.#first - this.#begin) / 1000,
    };
    if (tokens > 1 && seconds > 0) stats.rate = (tokens - 1) / seconds;
    if (this.usage) {
      stats.prompt = this.usage.prompt_tokens;
      stats.cached = this.usage.prompt_tokens_details?.cached_tokens ?? 0;
    }
    return stats;
  }
}
