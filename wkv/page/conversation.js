/**
 * A conversation: a tree of messages, as plain data.
 *
 * Every message knows its parent, its children and which child is chosen. The chosen children, from
 * the root on, are the path: what one sees, and what the model reads. Asking again or editing adds a
 * sibling and chooses it, so nothing that was said is ever overwritten.
 *
 * A conversation of kind "raw" has no messages but one text that the model continues.
 */

export const ROOT = "root";
const VERSION = 1;

/** A name that nobody else has; `randomUUID` would need https. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(10));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function newConversation(kind = "chat") {
  const now = Date.now();
  const root = { id: ROOT, parent: null, children: [], chosen: null, role: "root", text: "" };
  return {
    version: VERSION, id: newId(), kind, title: "", created: now, updated: now,
    state: null, text: "", messages: { [ROOT]: root },
  };
}

/** Adds a message under `parent`, chooses it and gives it back. */
export function add(conversation, parent, role, text, more = {}) {
  const message = {
    id: newId(), parent, children: [], chosen: null, role, text,
    reasoning: "", thought: null, finish: null, problem: null, stats: null,
    created: Date.now(), ...more,
  };
  conversation.messages[message.id] = message;
  conversation.messages[parent].children.push(message.id);
  conversation.messages[parent].chosen = message.id;
  touch(conversation);
  return message;
}

/** The messages that are seen, first to last. */
export function path(conversation) {
  const seen = [];
  let at = conversation.messages[ROOT];
  while (at.chosen !== null) {
    at = conversation.messages[at.chosen];
    seen.push(at);
  }
  return seen;
}

/** The last message that is seen, or the root. */
export function leaf(conversation) {
  return path(conversation).at(-1) ?? conversation.messages[ROOT];
}

export function siblings(conversation, id) {
  return conversation.messages[conversation.messages[id].parent].children;
}

/** Makes a message the one that is seen among its siblings. */
export function choose(conversation, id) {
  conversation.messages[conversation.messages[id].parent].chosen = id;
}

/** Chooses the sibling `step` places further on, if there is one. */
export function turn(conversation, id, step) {
  const all = siblings(conversation, id);
  const other = all[all.indexOf(id) + step];
  if (other !== undefined) choose(conversation, other);
}

/**
 * What the model reads before the message `id` and, with `inclusive`, the message itself.
 * Answers without a word, such as one that failed, are not told.
 */
export function history(conversation, id, inclusive = false) {
  const read = [];
  let at = conversation.messages[id];
  if (!inclusive) at = conversation.messages[at.parent];
  for (; at.id !== ROOT; at = conversation.messages[at.parent]) {
    if (at.role === "assistant" && !at.text.trim()) continue;
    const message = { role: at.role, content: at.text };
    if (at.reasoning) message.reasoning = at.reasoning;
    read.push(message);
  }
  return read.reverse();
}

/** The title that was given, or else the first words that were said. */
export function titleOf(conversation) {
  if (conversation.title) return conversation.title;
  const said = conversation.kind === "raw" ? conversation.text : path(conversation)[0]?.text ?? "";
  const line = said.trim().split("\n", 1)[0];
  const letters = [...line];
  return letters.length > 60 ? letters.slice(0, 59).join("") + "…" : line;
}

export function isEmpty(conversation) {
  return conversation.messages[ROOT].children.length === 0 && !conversation.text;
}

/** Whether `words` occur in the title or in any message, of any branch. */
export function mentions(conversation, words) {
  const wanted = words.trim().toLowerCase();
  if (!wanted) return true;
  const texts = [titleOf(conversation), conversation.text];
  for (const message of Object.values(conversation.messages)) texts.push(message.text);
  return texts.some((text) => text.toLowerCase().includes(wanted));
}

/** Marks answers that were being written when the page closed as stopped. */
export function settle(conversation) {
  for (const message of Object.values(conversation.messages)) {
    if (message.role === "assistant" && message.finish === null) message.finish = "stopped";
  }
  return conversation;
}

export function touch(conversation) {
  conversation.updated = Date.now();
}
