"""Text that follows a grammar: before each draw, the tokens that would break it are forbidden.

    grammars = Grammars(tokenizer, vocab_size)
    logits_processor = grammars.json_schema({"type": "object", ...}).logits_processor()

A logits processor belongs to one sequence (`wkv.inference.sequence.LogitsProcessor`). llguidance
works on bytes, so tokens may split a character. JSON has at most one space between its parts; if
more were allowed, a weak model could write spaces forever.
"""

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from wkv.constraints.compiler import Compiler
from wkv.constraints.schema_limits import checked_json
from wkv.constraints.token_bytes import END_BYTE, require_llguidance, vocabulary_of
from wkv.errors import InputError
from wkv.inference.sequence import LogitsProcessor
from wkv.ops.torch_settings import at_most
from wkv.tokenizers import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

MOST_LARK_BYTES = 2**17
MOST_LEXER_STATES = 50_000
"""Of one sequence; a state takes a kilobyte or two."""

LAYOUT = '"x-guidance":{"whitespace_flexible":false,"item_separator":", ?","key_separator":": ?"'
"""One blank at most, and only where people who write JSON on one line put it."""

LONGEST_MESSAGE = 200

AROUND_WORDS = (
    r"(?s)^at \d+\(\d+\): |failed to compile JSON schema: "
    r"|\n\s*\d+ \| .*|\s<backtrace>.*|<non-verbose/>"
)
"""What llguidance puts around the words of an error: places in our source, and traces."""


class Grammars:
    """Compiles grammars for a model's vocabulary, and keeps those that were used last.

    Attributes:
        stops: to be given to the writer as stop strings, beside the request's: a text ends with
            one of them where the vocabulary has no id that ends it.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self.stops = (END_BYTE.decode(),) if tokenizer.end_of_text is None else ()
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._built: LLTokenizer | None = None
        self._lock = threading.Lock()
        self._compiler = Compiler(self._compile)

    def json_object(self) -> "Grammar":
        """A JSON object, with anything in it. Errors as of `json_schema`."""
        return self.json_schema({"type": "object"})

    def json_schema(self, schema: Any, *, lenient: bool = False) -> "Grammar":
        """A JSON value as a schema wants it.

        Args:
            schema: JSON schema, an object.
            lenient: whether keywords that cannot be followed are ignored.

        Raises:
            InputError: if it cannot be followed; says why.
            BusyError: if too many others are being compiled.
            MissingExtraError: if llguidance is not installed.
        """
        return self.lark(f"start: {inline_json(schema, lenient=lenient)}")

    def lark(self, source: str) -> "Grammar":
        """Text as a grammar in llguidance's Lark wants it; see `inline_json`.

        Raises:
            InputError: if it is too long or not well-formed; says why.
            BusyError: if too many others are being compiled.
            MissingExtraError: if llguidance is not installed.
        """
        require_llguidance()
        size = len(source.encode())
        if size > MOST_LARK_BYTES:
            raise InputError(
                f"the grammar has {size} bytes, expected at most {MOST_LARK_BYTES}; use fewer "
                "tools, or smaller schemas"
            )
        return self._compiler.get(source)

    def _compile(self, source: str) -> "Grammar":
        """A grammar whose first token was tried: some mistakes show only there."""
        from llguidance import LLMatcher

        matcher = LLMatcher(self._llguidance_tokenizer(), source, log_level=0, limits=_limits())
        _check(matcher, "the schema cannot be followed")
        grammar = Grammar(self._vocab_size, matcher)
        grammar.logits_processor()(torch.zeros(self._vocab_size), [])
        return grammar

    def _llguidance_tokenizer(self) -> "LLTokenizer":
        with self._lock:
            if self._built is None:
                self._built = vocabulary_of(self._tokenizer, self._vocab_size).build()
            return self._built


@dataclass(frozen=True, eq=False)
class Grammar:
    """A grammar, compiled; any number of sequences may follow it at once.

    Attributes:
        vocab_size: of the model.
        matcher: before its first token; it is only ever copied.
    """

    vocab_size: int
    matcher: "LLMatcher"

    def logits_processor(self) -> LogitsProcessor:
        """What makes one sequence follow the grammar, from its first token on.

        Where the grammar is complete, only the end of the text can be drawn. It raises InputError
        if the sequence left the grammar, or if a step of it takes too much.
        """
        return Constraint(self.vocab_size, self.matcher.deep_copy())


class Constraint:
    """One sequence that follows a grammar."""

    def __init__(self, vocab_size: int, matcher: "LLMatcher") -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._bits = np.zeros((vocab_size + 31) // 32, np.int32)
        self._read = 0

    def __call__(self, logits: Tensor, drawn: Sequence[int]) -> Tensor:
        """New logits (V,), with minus infinity for the ids that the grammar forbids here.

        Raises:
            InputError: if `drawn` does not follow the grammar, or nothing can follow it.
        """
        if logits.shape != (self._vocab_size,):
            raise InputError(
                f"the logits have the shape {tuple(logits.shape)}, the grammar was made for "
                f"{self._vocab_size} ids"
            )
        self._consume(drawn)
        forbidden = self._forbidden().to(logits.device)
        with at_most(1):  # all is done before a second thread would wake up
            return torch.where(forbidden, -torch.inf, logits)

    def _consume(self, drawn: Sequence[int]) -> None:
        new = list(drawn[self._read :])
        self._read = len(drawn)
        if new and not self._matcher.consume_tokens(new):
            _check(self._matcher, "the text left the grammar")

    def _forbidden(self) -> Tensor:
        """Which ids are forbidden, (V,) bool."""
        bits, matcher = self._bits, self._matcher
        matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
        if "NoExtensionBias" in matcher.get_error():
            raise InputError(
                "no text can follow the grammar; look for a part of the schema that is nothing but "
                "itself, or for rules that exclude each other"
            )
        _check(matcher, "the grammar cannot be followed any further")
        flags = np.unpackbits(np.invert(bits).view(np.uint8), bitorder="little")
        return torch.from_numpy(flags[: self._vocab_size]).view(torch.bool)


def inline_json(schema: Any, *, lenient: bool = False) -> str:
    """A JSON schema as it is written inside of a Lark grammar: `%json {...}`.

    Raises:
        InputError: if it is no schema, or too large, deep or intricate.
    """
    text = checked_json(schema)
    layout = LAYOUT + (',"lenient":true}' if lenient else "}")
    return f"%json {{{layout}{', ' if schema else ''}{text[1:]}"


def _limits() -> "LLParserLimits":
    from llguidance import LLParserLimits

    return LLParserLimits(max_lexer_states=MOST_LEXER_STATES, verbose_errors=False)


def _check(matcher: "LLMatcher", what: str) -> None:
    """Raise if a matcher has failed; its own words go into the message, on one line."""
    if matcher.is_error():
        words = " ".join(re.sub(AROUND_WORDS, "", matcher.get_error()).split())
        if len(words) > LONGEST_MESSAGE:
            words = words[:LONGEST_MESSAGE] + "..."
        raise InputError(f"{what}: {words}; change or remove that part of the schema")
