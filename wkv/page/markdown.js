/**
 * Draws Markdown: blocks become elements by createElement and textContent, never by innerHTML.
 *
 * `renderMarkdown` may be called again and again with a text that grows: blocks that did not change
 * keep their elements, so a selection or a focused button survives the next token.
 */

import { parse } from "./blocks.js";
import { copyButton, element } from "./dom.js";
import { highlight } from "./highlight.js";
import { appendInline } from "./inline.js";
import { text } from "./language.js";

const drawn = new WeakMap();

/** Makes `container` show `source`. */
export function renderMarkdown(container, source) {
  const { source: old, blocks: before } = drawn.get(container) ?? { source: null, blocks: [] };
  if (source === old) return;
  const blocks = parse(source);
  let same = 0;
  while (same < before.length && same < blocks.length && isSame(before[same], blocks[same])) same += 1;
  while (container.childNodes.length > same) container.lastChild.remove();
  for (const block of blocks.slice(same)) {
    const node = draw(block);
    // Each block has the direction of its own letters, from left to right or from right to left.
    node.dir = block.type === "code" ? "ltr" : "auto";
    container.append(node);
  }
  drawn.set(container, { source, blocks });
}

const isSame = (one, other) => one.type === other.type && one.source === other.source;

function draw(block) {
  switch (block.type) {
    case "heading":
      // The page's title is h1, each message has an h2; those of an answer lie below them.
      return appendInline(element(`h${Math.min(block.depth + 2, 6)}`), block.text);
    case "rule":
      return element("hr");
    case "code":
      return drawCode(block);
    case "quote":
      return element("blockquote", {}, ...block.blocks.map(draw));
    case "list":
      return drawList(block);
    case "table":
      return drawTable(block);
    default:
      return appendInline(element("p"), block.text);
  }
}

function drawCode({ language, text: source }) {
  const code = element("code");
  for (const [kind, words] of highlight(source, language)) {
    code.append(kind ? element("span", { class: `code-${kind}`, text: words }) : words);
  }
  const copy = copyButton(text("copy_code"), text("copied"), () => source);
  const head = element("div", { class: "code-head" },
    element("span", { text: language || text("code") }), copy);
  const area = element("pre", region("code", language), code);
  return element("div", { class: "code" }, head, area);
}

function drawList({ ordered, start, items }) {
  const list = element(ordered ? "ol" : "ul", ordered && start !== 1 ? { start } : {});
  for (const blocks of items) {
    const item = element("li");
    blocks.forEach((block, index) => {
      // The first words of an item stand on the line of its mark.
      if (index === 0 && block.type === "paragraph") appendInline(item, block.text);
      else item.append(draw(block));
    });
    list.append(item);
  }
  return list;
}

function drawTable({ head, sides, rows }) {
  const row = (cells, tag) => element("tr", {}, ...cells.map((cell, column) =>
    appendInline(element(tag, { class: `side-${sides[column]}` }), cell)));
  const table = element("table", {},
    element("thead", {}, row(head, "th")),
    element("tbody", {}, ...rows.map((cells) => row(cells, "td"))));
  return element("div", { class: "table", ...region("table", head.join(", ")) }, table);
}

/** A part that scrolls sideways, by keyboard as well. `nameRegions` gives it a name. */
function region(kind, content) {
  return { tabindex: "0", role: "region", "data-kind": kind, "data-content": content };
}

/** Names the tables and codes of a thread: each has a number, so that no two names are the same. */
export function nameRegions(thread) {
  const count = { code: 0, table: 0 };
  for (const part of thread.querySelectorAll("[data-kind]")) {
    const { kind, content } = part.dataset;
    count[kind] += 1;
    const name = text(`${kind}_number`, { n: count[kind] }) + (content ? `: ${content}` : "");
    if (part.ariaLabel !== name) part.ariaLabel = name;
  }
}
