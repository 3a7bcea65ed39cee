/**
 * Conversations as a file: what export writes and import reads.
 *
 * `{"format": "wkv-conversations", "version": 1, "conversations": [...]}`. A file comes from anywhere,
 * so every field is looked at and copied by name; what is not known is left behind.
 */

import { ROOT, newConversation, settle } from "./conversation.js";

const FORMAT = "wkv-conversations";
const ROLES = ["system", "user", "assistant"];
const FINISHES = ["stop", "length", "stopped", "error", "edited", null];

/** What is wrong with a file: `reason` names a text of the page, `values` fill it. */
export class BadFile extends Error {
  constructor(reason, values = {}) {
    super(reason);
    this.reason = reason;
    this.values = values;
  }
}

export function toFile(conversations) {
  const file = { format: FORMAT, version: 1, exported: new Date().toISOString(), conversations };
  return JSON.stringify(file, null, 1) + "\n";
}

/** The conversations of a file, or BadFile. */
export function fromFile(source) {
  let file;
  try {
    file = JSON.parse(source);
  } catch {
    throw new BadFile("import_no_json");
  }
  if (file?.format !== FORMAT || !Array.isArray(file.conversations)) throw new BadFile("import_other");
  if (file.version !== 1) throw new BadFile("import_version", { version: String(file.version) });
  return file.conversations.map((one, index) => readConversation(one, index + 1));
}

/** A checked copy of one conversation; `number` is its place in the file, for the message. */
export function readConversation(raw, number = 1) {
  const demand = (fact, what) => {
    if (!fact) throw new BadFile("import_damaged", { number, what });
  };
  demand(isRecord(raw), "{}");
  demand(typeof raw.id === "string" && /^[A-Za-z0-9-]{1,64}$/.test(raw.id), "id");
  demand(raw.kind === "chat" || raw.kind === "raw", "kind");
  demand(isRecord(raw.messages) && isRecord(raw.messages[ROOT]), "messages");

  const conversation = newConversation(raw.kind);
  conversation.id = raw.id;
  conversation.title = textOr(raw.title, "");
  conversation.text = textOr(raw.text, "");
  conversation.created = numberOr(raw.created, conversation.created);
  conversation.updated = numberOr(raw.updated, conversation.updated);
  if (isRecord(raw.state) && typeof raw.state.id === "string") {
    const { id, name, tokens } = raw.state;
    conversation.state = { id, name: textOr(name, id), tokens: numberOr(tokens, 0) };
  }

  const messages = Object.create(null);
  for (const [id, message] of Object.entries(raw.messages)) {
    demand(isRecord(message) && message.id === id && /^[A-Za-z0-9-]{1,64}$/.test(id), `messages.${id}.id`);
    if (id !== ROOT) demand(ROLES.includes(message.role), `messages.${id}.role`);
    messages[id] = id === ROOT ? { ...conversation.messages[ROOT] } : readMessage(message);
  }
  for (const id of Object.keys(messages)) {
    const { children, chosen } = raw.messages[id];
    demand(Array.isArray(children), `messages.${id}.children`);
    for (const child of children) {
      demand(child !== ROOT && messages[child]?.parent === id, `messages.${id}.children`);
    }
    demand(new Set(children).size === children.length, `messages.${id}.children`);
    messages[id].children = [...children];
    messages[id].chosen = children.includes(chosen) ? chosen : children.at(-1) ?? null;
  }
  demand(reachable(messages) === Object.keys(messages).length, "messages");
  conversation.messages = { ...messages };
  return settle(conversation);
}

function readMessage(raw) {
  const stats = isRecord(raw.stats) ? {} : null;
  for (const name of ["tokens", "rate", "first", "prompt", "cached"]) {
    if (stats && Number.isFinite(raw.stats[name])) stats[name] = raw.stats[name];
  }
  if (stats && raw.stats.counted === false) stats.counted = false;
  const problem = isRecord(raw.problem)
    ? { kind: textOr(raw.problem.kind, "failed"), detail: textOr(raw.problem.detail, "") }
    : null;
  return {
    id: raw.id, parent: textOr(raw.parent, ""), children: [], chosen: null, role: raw.role,
    text: textOr(raw.text, ""), reasoning: textOr(raw.reasoning, ""),
    thought: numberOr(raw.thought, null), problem, stats,
    finish: FINISHES.includes(raw.finish) ? raw.finish : null,
    created: numberOr(raw.created, 0),
  };
}

/** How many messages can be come by from the root: a circle or an orphan cannot. */
function reachable(messages) {
  let count = 0;
  const waiting = [ROOT];
  while (waiting.length > 0) {
    count += 1;
    waiting.push(...messages[waiting.pop()].children);
  }
  return count;
}

const isRecord = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const textOr = (value, otherwise) => (typeof value === "string" ? value : otherwise);
const numberOr = (value, otherwise) => (Number.isFinite(value) ? value : otherwise);
