/**
 * Markdown within a line: emphasis, code, links. Gives DOM nodes; every letter goes in as text.
 *
 * A link leads only to http, https or mailto. An image becomes a link: the page loads nothing from
 * elsewhere. HTML is text. Formulas in TeX are shown as they were written.
 */

const DEEPEST = 12;
const ESCAPABLE = /[!-/:-@[-`{-~]/;
const TEX_BRACKETS = "()[]";
const TEX = /(?<open>\\\(|\\\[|\$\$|\\begin\{(?<name>\w+\*?)\})|\$(?!\s)(?:[^$\\\n]|\\.)+(?<!\s)\$(?!\d)/y;
const ADDRESS = /https?:\/\/[^\s<>"'`]+/iy;
const LINK = /!?\[((?:[^[\]\\]|\\.|\[[^[\]]*\])*)\]\(\s*<?([^\s()<>]*(?:\([^\s()]*\)[^\s()<>]*)*)>?(?:\s+"[^"]*")?\s*\)/y;
const BRACKETED = /<((?:https?:\/\/|mailto:)[^\s<>]+)>/iy;
const MARKS = [["***", "strong", "em"], ["**", "strong"], ["__", "strong"], ["~~", "s"], ["*", "em"], ["_", "em"]];

/** Appends `source` to `parent` as nodes. */
export function appendInline(parent, source, depth = 0) {
  const hopeless = new Set();
  let plain = "";
  const flush = () => {
    if (plain) parent.append(plain);
    plain = "";
  };
  for (let at = 0; at < source.length;) {
    const found = depth < DEEPEST ? piece(source, at, hopeless, depth) : null;
    if (found === null) {
      plain += source[at];
      at += 1;
      continue;
    }
    flush();
    parent.append(found.node);
    at = found.end;
  }
  flush();
  return parent;
}

/** The construct that begins at `at`, as {node, end}, or null where there is only a letter. */
function piece(source, at, hopeless, depth) {
  switch (source[at]) {
    case "$":
      return tex(source, at, hopeless);
    case "\\":
      if (texEnd(source, at, hopeless) > 0) return tex(source, at, hopeless);
      if (!ESCAPABLE.test(source[at + 1] ?? "")) return null;
      return { node: source.slice(TEX_BRACKETS.includes(source[at + 1]) ? at : at + 1, at + 2), end: at + 2 };
    case "\n":
      return { node: document.createElement("br"), end: at + 1 };
    case "`":
      return codeSpan(source, at, hopeless);
    case "!":
      return source[at + 1] === "[" ? link(source, at, depth) : null;
    case "[":
      return link(source, at, depth);
    case "<":
      return bracketed(source, at);
    case "h":
    case "H":
      return bareAddress(source, at);
    case "*":
    case "_":
    case "~":
      return emphasis(source, at, hopeless, depth);
    default:
      return null;
  }
}

function tex(source, at, hopeless) {
  const end = texEnd(source, at, hopeless);
  if (end < 0) return null;
  const node = document.createDocumentFragment();
  source.slice(at, end).split("\n").forEach((line, index) => {
    node.append(...(index ? [document.createElement("br")] : []), line);
  });
  return { node, end };
}

/** Where the formula ends that begins at `at`, or -1. A dollar before a digit is a price. */
function texEnd(source, at, hopeless) {
  TEX.lastIndex = at;
  const match = TEX.exec(source);
  if (match === null) return -1;
  const { open, name } = match.groups;
  if (open === undefined) return at + match[0].length;
  if (hopeless.has(open)) return -1;
  const close = name ? `\\end{${name}}` : { "\\(": "\\)", "\\[": "\\]", $$: "$$" }[open];
  const end = source.indexOf(close, at + open.length);
  if (end < 0) hopeless.add(open);
  return end < 0 ? -1 : end + close.length;
}

function codeSpan(source, at, hopeless) {
  const ticks = /`+/y;
  ticks.lastIndex = at;
  const fence = ticks.exec(source)[0];
  const plain = { node: fence, end: at + fence.length };
  if (hopeless.has(fence)) return plain;
  const end = closingTicks(source, at + fence.length, fence.length);
  if (end < 0) {
    hopeless.add(fence);
    return plain;
  }
  let inside = source.slice(at + fence.length, end).replaceAll("\n", " ");
  if (/^ .*[^ ].* $/.test(inside)) inside = inside.slice(1, -1);
  const code = document.createElement("code");
  code.textContent = inside;
  return { node: code, end: end + fence.length };
}

/** Where the next run of exactly `length` backticks begins, or -1. */
function closingTicks(source, from, length) {
  for (const run of source.slice(from).matchAll(/`+/g)) {
    if (run[0].length === length) return from + run.index;
  }
  return -1;
}

function emphasis(source, at, hopeless, depth) {
  for (const [mark, ...tags] of MARKS) {
    if (hopeless.has(mark) || !source.startsWith(mark, at)) continue;
    const inner = at + mark.length;
    if (/\s/.test(source[inner] ?? " ")) continue;
    if (mark[0] === "_" && isWord(source[at - 1])) continue;
    const end = closingMark(source, inner + 1, mark, hopeless);
    if (end < 0) {
      hopeless.add(mark);
      continue;
    }
    const made = tags.map((tag) => document.createElement(tag));
    if (made.length > 1) made[0].append(made[1]);
    appendInline(made.at(-1), source.slice(inner, end), depth + 1);
    return { node: made[0], end: end + mark.length };
  }
  return null;
}

/** Where `mark` closes what it opened, outside of code spans and formulas, or -1. */
function closingMark(source, from, mark, hopeless) {
  for (let at = from; at < source.length; at += 1) {
    const letter = source[at];
    if (letter === "\\" || letter === "$") {
      const end = texEnd(source, at, hopeless);
      if (end > 0) at = end - 1;
      else if (letter === "\\") at += 1;
    } else if (letter === "`") {
      const run = /`+/y;
      run.lastIndex = at;
      const length = run.exec(source)[0].length;
      const end = closingTicks(source, at + length, length);
      at = (end < 0 ? at : end) + length - 1;
    } else if (letter === mark[0]) {
      let end = at + 1;
      while (source[end] === letter) end += 1;
      const run = end - at;
      // Two stars open or close for themselves; they are nothing to one.
      const fits = run >= mark.length && (mark.length > 1 || run % 2 === 1);
      const closes = !/\s/.test(source[at - 1]) && (letter !== "_" || !isWord(source[end]));
      if (fits && closes) return end - mark.length;
      at = end - 1;
    }
  }
  return -1;
}

const isWord = (letter) => letter !== undefined && /[\p{L}\p{N}_]/u.test(letter);

function link(source, at, depth) {
  LINK.lastIndex = at;
  const match = LINK.exec(source);
  if (match === null) return null;
  const [whole, words, address] = match;
  const node = anchor(address);
  if (node === null) return { node: whole, end: at + whole.length };
  appendInline(node, words || address, depth + 1);
  return { node, end: at + whole.length };
}

function bracketed(source, at) {
  BRACKETED.lastIndex = at;
  const match = BRACKETED.exec(source);
  const node = match && anchor(match[1]);
  if (!node) return null;
  node.textContent = match[1];
  return { node, end: at + match[0].length };
}

function bareAddress(source, at) {
  if (isWord(source[at - 1])) return null;
  ADDRESS.lastIndex = at;
  const match = ADDRESS.exec(source);
  if (match === null) return null;
  let address = match[0].replace(/[.,;:!?*_~\]]+$/, "");
  if (!address.includes("(")) address = address.replace(/\).*$/, "");
  const node = anchor(address);
  if (node === null) return null;
  node.textContent = address;
  return { node, end: at + address.length };
}

/** An `a` that leads to `address`, or null where it may lead nowhere. */
function anchor(address) {
  if (!/^(https?:\/\/|mailto:)[^\s]+$/i.test(address) || !URL.canParse(address)) return null;
  const node = document.createElement("a");
  node.href = address;
  node.target = "_blank";
  node.rel = "noopener noreferrer";
  return node;
}
