/** Colours for code: comments, strings, numbers and keywords. It guesses; it does not parse. */

const words = (list) => new Set(list.split(" "));

const KEYWORDS = {
  python: words("and as assert async await break case class continue def del elif else except False finally for from global if import in is lambda match None nonlocal not or pass raise return self True try while with yield"),
  script: words("async await break case catch class const continue default delete do else export extends false finally for from function if import in instanceof interface let new null of return static super switch this throw true try type typeof undefined var void while yield"),
  system: words("auto bool break case char class const constexpr continue default defer do double else enum extern false float fn for func go goto if impl import include int interface let long loop match mod mut namespace new nil null nullptr package private protected pub public range return self short signed sizeof static struct super switch template this throw trait true try type typedef union unsigned use using var virtual void volatile where while"),
  shell: words("case do done elif else esac exit export fi for function if in local read return set then unset until while"),
  sql: words("add all alter and as asc between by case create delete desc distinct drop else end exists from full group having in index inner insert into is join key left like limit not null on or order outer primary references right select set table then union unique update values view when where with"),
  data: words("true false null yes no on off"),
  ruby: words("and begin break case class def do else elsif end ensure false for if in module next nil not or require rescue return self super then true unless until when while yield"),
  lua: words("and break do else elseif end false for function if in local nil not or repeat return then true until while"),
};

const HASH = "#[^\\n]*";
const SLASHES = "//[^\\n]*|/\\*[\\s\\S]*?(?:\\*/|$)";
const DASHES = "--[^\\n]*";
const QUOTES = "\"(?:[^\"\\\\\\n]|\\\\.)*\"?|'(?:[^'\\\\\\n]|\\\\.)*'?";
const TICKS = "`(?:[^`\\\\]|\\\\[\\s\\S])*`?";
const TRIPLE = "\"\"\"[\\s\\S]*?(?:\"\"\"|$)|'''[\\s\\S]*?(?:'''|$)";

const FAMILIES = {
  python: [HASH, `${TRIPLE}|${QUOTES}`],
  script: [SLASHES, `${QUOTES}|${TICKS}`],
  system: [SLASHES, QUOTES],
  shell: [HASH, QUOTES],
  sql: [DASHES, QUOTES],
  data: [HASH, QUOTES],
  ruby: [HASH, QUOTES],
  lua: [DASHES, QUOTES],
  markup: ["<!--[\\s\\S]*?(?:-->|$)", QUOTES],
  style: ["/\\*[\\s\\S]*?(?:\\*/|$)", QUOTES],
};

const LANGUAGES = {
  python: "python py python3 pyi",
  script: "javascript js jsx mjs typescript ts tsx json json5",
  system: "c h cpp c++ cc hpp cuda cu rust rs go java kotlin kt swift cs csharp c# php zig dart scala",
  shell: "bash sh shell zsh console powershell dockerfile makefile make",
  sql: "sql sqlite mysql postgresql",
  data: "yaml yml toml ini conf r",
  ruby: "ruby rb elixir",
  lua: "lua haskell hs",
  markup: "html xml svg vue",
  style: "css scss less",
};

const FAMILY_OF = new Map(Object.entries(LANGUAGES).flatMap(
  ([family, names]) => names.split(" ").map((name) => [name, family])));

const patterns = new Map();

/** Pieces [kind, text] of `code` in order; kind is null, "comment", "string", "number" or "keyword". */
export function highlight(code, language) {
  const family = FAMILY_OF.get(language);
  if (family === undefined) return [[null, code]];
  const pieces = [];
  let plain = 0;
  for (const match of code.matchAll(patternOf(family))) {
    const kind = kindOf(match, family);
    if (kind === null) continue;
    if (match.index > plain) pieces.push([null, code.slice(plain, match.index)]);
    pieces.push([kind, match[0]]);
    plain = match.index + match[0].length;
  }
  if (plain < code.length) pieces.push([null, code.slice(plain)]);
  return pieces;
}

function patternOf(family) {
  if (!patterns.has(family)) {
    const [comment, string] = FAMILIES[family];
    const number = "\\b(?:0[xX][\\da-fA-F_]+|\\d[\\d_]*(?:\\.\\d+)?(?:[eE][+-]?\\d+)?)\\b";
    patterns.set(family, new RegExp(
      `(?<comment>${comment})|(?<string>${string})|(?<number>${number})|(?<word>[A-Za-z_$][\\w$]*)`, "g"));
  }
  return patterns.get(family);
}

function kindOf({ groups }, family) {
  if (groups.comment !== undefined) return "comment";
  if (groups.string !== undefined) return "string";
  if (groups.number !== undefined) return "number";
  const word = family === "sql" ? groups.word.toLowerCase() : groups.word;
  return KEYWORDS[family]?.has(word) ? "keyword" : null;
}
