/**
 * Markdown as blocks: a tree of plain objects, before anything is drawn.
 *
 * {type: "paragraph" | "heading" | "code" | "quote" | "list" | "table" | "rule", ...}. Anything that
 * is none of the others is a paragraph, so every text can be read; a fence that is still open while
 * the model writes is code up to the end. A displayed formula in TeX is one paragraph.
 */

const DEEPEST = 8;
const LONGEST_FORMULA = 100;
const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?:([ \t]+)|$)/;
const FORMULA = /^ {0,3}(\\\[|\$\$|\\begin\{\w+\*?\})/;
const DIVIDER = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;

/** The blocks of a text. Each top block carries its `source`, to see whether it has changed. */
export function parse(text) {
  const blocks = parseLines(text.replaceAll("\r\n", "\n").replaceAll("\t", "    ").split("\n"), 0);
  nestHeadings(blocks, []);
  return blocks;
}

/** Gives each heading its `depth` among the headings of the text: none skips a level. */
function nestHeadings(blocks, open) {
  for (const block of blocks) {
    if (block.type === "heading") {
      while (open.at(-1) >= block.level) open.pop();
      block.depth = open.push(block.level);
    }
    for (const inner of block.items ?? [block.blocks ?? []]) nestHeadings(inner, open);
  }
}

function parseLines(lines, depth) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (lines[at].trim() === "") {
      at += 1;
      continue;
    }
    const [block, end] = blockAt(lines, at, depth);
    block.source = lines.slice(at, end).join("\n");
    blocks.push(block);
    at = end;
  }
  return blocks;
}

function blockAt(lines, at, depth) {
  const line = lines[at];
  if (FENCE.test(line)) return code(lines, at);
  const heading = HEADING.exec(line);
  if (heading) return [{ type: "heading", level: heading[1].length, text: heading[2] ?? "" }, at + 1];
  if (RULE.test(line)) return [{ type: "rule" }, at + 1];
  if (depth < DEEPEST && QUOTE.test(line)) return quote(lines, at, depth);
  if (depth < DEEPEST && ITEM.test(line)) return list(lines, at, depth);
  if (isTable(lines, at)) return table(lines, at);
  return paragraph(lines, at, depth);
}

function begins(lines, at, depth) {
  const line = lines[at];
  if (line.trim() === "" || FENCE.test(line) || HEADING.test(line) || RULE.test(line)) return true;
  if (isTable(lines, at)) return true;
  return depth < DEEPEST && (QUOTE.test(line) || ITEM.test(line));
}

function paragraph(lines, at, depth) {
  let end = at;
  do {
    end = endOfFormula(lines, end) || end + 1;
  } while (end < lines.length && !begins(lines, end, depth));
  const text = lines.slice(at, end).map((line) => line.trim()).join("\n");
  return [{ type: "paragraph", text }, end];
}

/** The line after a formula that begins at `at`; 0 where none does. Its lines may look like a list. */
function endOfFormula(lines, at) {
  const open = FORMULA.exec(lines[at])?.[1];
  if (open === undefined) return 0;
  const close = { "\\[": "\\]", $$: "$$" }[open] ?? open.replace("begin", "end");
  const rest = lines[at].slice(lines[at].indexOf(open) + open.length);
  if (rest.includes(close)) return at + 1;
  const further = lines.slice(at + 1, at + LONGEST_FORMULA).findIndex((line) => line.includes(close));
  return further < 0 ? 0 : at + further + 2;
}

function code(lines, at) {
  const [, fence, info] = FENCE.exec(lines[at]);
  const indent = lines[at].search(/\S/);
  const closing = new RegExp(`^ {0,3}\\${fence[0]}{${fence.length},}[ \\t]*$`);
  const margin = new RegExp(`^ {0,${indent}}`);
  const inside = [];
  let end = at + 1;
  while (end < lines.length && !closing.test(lines[end])) {
    inside.push(lines[end].replace(margin, ""));
    end += 1;
  }
  const language = info.trim().split(/\s/, 1)[0].toLowerCase();
  return [{ type: "code", language, text: inside.join("\n") }, Math.min(end + 1, lines.length)];
}

function quote(lines, at, depth) {
  let end = at;
  const inside = [];
  while (end < lines.length && QUOTE.test(lines[end])) {
    inside.push(lines[end].replace(QUOTE, ""));
    end += 1;
  }
  return [{ type: "quote", blocks: parseLines(inside, depth + 1) }, end];
}

/** One list: items of the same sort, with what is indented below each of them. */
function list(lines, at, depth) {
  const [, , bullet] = ITEM.exec(lines[at]);
  const ordered = /\d/.test(bullet);
  const items = [];
  let end = at;
  while (end < lines.length) {
    const match = ITEM.exec(lines[end]);
    if (!match || RULE.test(lines[end]) || /\d/.test(match[2]) !== ordered) break;
    const [inside, next] = item(lines, end, match);
    items.push(parseLines(inside, depth + 1));
    end = next;
    const further = nextFilled(lines, end);
    if (further < lines.length && ITEM.test(lines[further])) end = further;
  }
  return [{ type: "list", ordered, start: ordered ? Number.parseInt(bullet, 10) : 1, items }, end];
}

/** The lines of one item without their margin, and where the next block begins. */
function item(lines, at, [mark, indent, , gap]) {
  const margin = gap && gap.length <= 4 ? mark.length : mark.trimEnd().length + 1;
  const inside = [lines[at].slice(mark.length)];
  let end = at + 1;
  for (; end < lines.length; end += 1) {
    const line = lines[end];
    if (line.trim() === "") {
      const further = nextFilled(lines, end);
      if (further === lines.length || indentOf(lines[further]) <= indent.length) break;
      inside.push("");
    } else if (indentOf(line) > indent.length) {
      inside.push(line.slice(Math.min(margin, indentOf(line))));
    } else if (inside.at(-1) !== "" && !begins(lines, end, 0)) {
      inside.push(line); // a paragraph that goes on without its margin
    } else {
      break;
    }
  }
  return [inside, end];
}

function nextFilled(lines, at) {
  while (at < lines.length && lines[at].trim() === "") at += 1;
  return at;
}

const indentOf = (line) => line.length - line.trimStart().length;

function isTable(lines, at) {
  const divider = lines[at + 1];
  if (!lines[at].includes("|") || divider === undefined || !DIVIDER.test(divider)) return false;
  return cells(lines[at]).length === cells(divider).length;
}

function table(lines, at) {
  const head = cells(lines[at]);
  const sides = cells(lines[at + 1]).map((mark) => {
    if (mark.endsWith(":")) return mark.startsWith(":") ? "center" : "right";
    return "left";
  });
  const rows = [];
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) {
    const row = cells(lines[end]);
    rows.push(head.map((_, column) => row[column] ?? ""));
    end += 1;
  }
  return [{ type: "table", head, sides, rows }, end];
}

function cells(line) {
  const bare = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return bare.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}
