"""Prompt files: the speakers and the opening of a conversation. No code is executed.

ChatRWKV's format is a Python file with the variables `user`, `bot`, `interface` and `init_prompt`.
Only its syntax tree is evaluated: texts, f-strings, sums and these four names are allowed, and
`print` is ignored. A `.toml` file has the same four keys. A `.json` file is one of rwkv.cpp, with
`user`, `bot` or `assistant`, `separator` and `prompt`; or one of web-rwkv, with `user`, `bot`,
`intro` and `text`, a list of pairs of messages, in which {user} and {bot} are the names.
"""

import ast
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wkv.errors import InputError
from wkv.files import read_text
from wkv.prompting.template import SEPARATOR, Template
from wkv.tokenizers import Tokenizer

KEYS = ("user", "bot", "interface", "init_prompt")
BLANKS = " \t\r\u3000"
MAX_CHARACTERS = 2**24
"""Largest size of a prompt file; a larger file can only be a mistake."""


@dataclass(frozen=True)
class OpeningPrompt:
    """The opening of a conversation.

    Attributes:
        template: the speakers.
        text: the result of `prepared`; empty if the conversation begins without a text.
    """

    template: Template
    text: str


def prepared(text: str) -> str:
    """Format an opening text: blanks around lines removed, one newline before, two after.

    Blanks are spaces, tabs, U+3000 and carriage returns. A text that contains nothing else becomes
    "". Source: ChatRWKV, chat.py.
    """
    lines = "\n".join(line.strip(BLANKS) for line in text.strip().split("\n")).strip()
    return f"\n{lines}{SEPARATOR}" if lines else ""


def read_prompt(path: str | Path) -> OpeningPrompt:
    """Read a prompt file.

    Raises:
        InputError: if the file is missing, or contains anything but the four texts; the message
            gives the line.
    """
    path = Path(path)
    source = read_text(path)
    if len(source) > MAX_CHARACTERS:
        raise InputError(
            f"{path}: the file is too large for a prompt file; use +read for long texts"
        )
    readers = {".toml": _from_toml, ".json": _from_json}
    values = readers.get(path.suffix.lower(), _from_python)(path, source)
    for key in ("user", "bot"):
        if not values.get(key, "").strip() or "\n" in values[key]:
            raise InputError(f"{path}: {key} must be a name on one line; set {key} = 'NAME'")
    interface = values.get("interface", ":")
    if not interface.strip() or "\n" in interface:
        raise InputError(f"{path}: interface is {interface!r}, expected a mark such as ':'")
    template = Template(values["user"].strip(), values["bot"].strip(), interface.rstrip(" "))
    return OpeningPrompt(template, prepared(values.get("init_prompt", "")))


def _from_toml(path: Path, source: str) -> dict[str, str]:
    """Return the four keys of a TOML file."""
    try:
        table = tomllib.loads(source)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{path}: the file is not valid TOML ({error})") from error
    for key, value in table.items():
        if key not in KEYS or not isinstance(value, str):
            raise InputError(f"{path}: {key!r} is not a text named {', '.join(KEYS)}")
    return table


def _from_json(path: Path, source: str) -> dict[str, str]:
    """Return the four keys of a file of rwkv.cpp or web-rwkv."""
    try:
        table = json.loads(source)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: the file is not valid JSON ({error})") from error
    if isinstance(table, dict) and "text" in table:
        return _from_web_rwkv(path, table)
    names = {"assistant": "bot", "separator": "interface", "prompt": "init_prompt"}
    values: dict[str, str] = {}
    for key, value in table.items() if isinstance(table, dict) else [("", None)]:
        name = names.get(key, key)
        if name not in KEYS or not isinstance(value, str):
            raise InputError(
                f"{path}: expected texts named user, bot or assistant, separator and prompt (as in "
                f"files of rwkv.cpp), or user, bot, intro and text (web-rwkv); found {key[:40]!r}"
            )
        values[name] = value
    return values


def _from_web_rwkv(path: Path, table: Mapping[str, Any]) -> dict[str, str]:
    """Return the four keys of a file of web-rwkv."""
    names = {key: table.get(key) for key in ("user", "bot", "intro")}
    pairs = table["text"]
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(one, str) for one in pair)
        for pair in pairs
    ):
        raise InputError(f"{path}: text must be a list of pairs [message, reply]")
    if not all(isinstance(value, str) for value in names.values()):
        raise InputError(f"{path}: user, bot and intro must be texts")
    user, bot, intro = (str(value) for value in names.values())
    turns = [f"{user}: {message}\n\n{bot}: {reply}" for message, reply in pairs]
    text = "\n\n".join([intro, *turns]).replace("{user}", user).replace("{bot}", bot)
    return {"user": user, "bot": bot, "interface": ":", "init_prompt": text}


def _from_python(path: Path, source: str) -> dict[str, str]:
    """Return the four variables of a Python file."""
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise InputError(f"{path}, line {error.lineno}: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"{path}: the file is not a prompt file ({error})") from error
    values: dict[str, str] = {}
    for statement in statements:
        match statement:
            case ast.Expr(value=ast.Constant(value=str())):
                continue  # a text without an assignment is a comment
            case ast.Expr(value=ast.Call(func=ast.Name(id="print"))):
                continue
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AugAssign(target=ast.Name(id=name), op=ast.Add(), value=value)
            ) if name in KEYS:
                begun = values.get(name, "") if isinstance(statement, ast.AugAssign) else ""
                try:
                    values[name] = begun + _text(value, values)
                except _NotText as error:
                    raise _refused(path, error.line) from None
                except RecursionError:
                    raise _refused(path, statement.lineno) from None
            case _:
                raise _refused(path, statement.lineno)
    return values


def _refused(path: Path, line: int) -> InputError:
    return InputError(
        f"{path}, line {line}: a prompt file may only set {', '.join(KEYS)} to texts; code is not "
        "executed, write the text itself"
    )


class _NotText(Exception):
    """Raised for an expression that is not a text."""

    def __init__(self, node: ast.expr) -> None:
        super().__init__(ast.dump(node)[:80])
        self.line = node.lineno


def _text(node: ast.expr, known: dict[str, str]) -> str:
    """Return the text of a literal, a known name, or a sum or f-string of these."""
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.Name(id=name) if name in known:
            return known[name]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _text(left, known) + _text(right, known)
        case ast.JoinedStr(values=parts):
            return "".join(_text(part, known) for part in parts)
        case ast.FormattedValue(value=value, conversion=-1, format_spec=None):
            return _text(value, known)
    raise _NotText(node)


def with_single_newlines(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """Return the ids of an opening prompt in which a final double newline is two single newlines.

    The 20B tokenizer encodes two newlines as one id at the end of a text, and as two ids before a
    word. Models were trained on the latter, so a final 535 becomes 187, 187. Other tokenizers have
    one id in both cases, and the ids are unchanged. Source: ChatRWKV, chat.py.
    """
    single, double = tokenizer.encode("\n"), tokenizer.encode("\n\n")
    before_a_word = tokenizer.encode("\n\nA")[:2] == 2 * single
    if before_a_word and len(double) == 1 and ids[-1:] == double:
        return ids[:-1] + 2 * single
    return ids
