"""Text that follows a grammar: a logits processor excludes all tokens that would violate it.

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
from wkv.constraints.token_bytes import END_BYTE, llguidance_vocabulary, require_llguidance
from wkv.errors import InputError
from wkv.inference.sequence import LogitsProcessor
from wkv.ops.torch_settings import thread_limit
from wkv.tokenizers import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

MAX_LARK_BYTES = 2**17
MAX_LEXER_STATES = 50_000
"""Limit for one sequence; a lexer state takes one or two kilobytes."""

LAYOUT = '"x-guidance":{"whitespace_flexible":false,"item_separator":", ?","key_separator":": ?"'
"""At most one space, and only where JSON on one line usually has one."""

MAX_MESSAGE = 200

NOISE = (
    r"(?s)^at \d+\(\d+\): |failed to compile JSON schema: "
    r"|\n\s*\d+ \| .*|\s<backtrace>.*|<non-verbose/>"
)
"""Parts of llguidance's error messages that are removed: positions in our source, and traces."""


class Grammars:
    """A compiler of grammars for a model's vocabulary, with a cache of recent results.

    Attributes:
        stops: stop strings that a request needs in addition to its own. A vocabulary without an
            end-of-text id ends a constrained text with one of them.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self.stops = (END_BYTE.decode(),) if tokenizer.end_of_text is None else ()
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._llg_tokenizer: LLTokenizer | None = None
        self._lock = threading.Lock()
        self._compiler = Compiler(self._compile)
        self._tenants: dict[str, Grammars] = {}
        self._parent: Grammars | None = None

    def of(self, tenant: str) -> "Grammars":
        """Return the grammars of one tenant, with a cache and limits of its own.

        In a shared cache, the time of a request would tell whether others use the same schema.
        """
        with self._lock:
            if tenant not in self._tenants:
                self._tenants[tenant] = Grammars(self._tokenizer, self._vocab_size)
                self._tenants[tenant]._parent = self
            return self._tenants[tenant]

    def json_object(self) -> "Grammar":
        """Return the grammar of any JSON object. Raises the errors of `json_schema`."""
        return self.json_schema({"type": "object"})

    def json_schema(self, schema: Any, *, lenient: bool = False) -> "Grammar":
        """Return the grammar of a JSON value that a schema accepts.

        Args:
            schema: JSON schema, an object.
            lenient: ignore keywords that are not supported instead of refusing them.

        Raises:
            InputError: if the schema is not supported; the message gives the reason.
            BusyError: if too many schemas are being compiled.
            MissingExtraError: if llguidance is not installed.
        """
        return self.lark(f"start: {inline_json(schema, lenient=lenient)}")

    def lark(self, source: str) -> "Grammar":
        """Return a grammar that is written in llguidance's variant of Lark; see `inline_json`.

        Raises:
            InputError: if it is too long or not well-formed; the message gives the reason.
            BusyError: if too many grammars are being compiled.
            MissingExtraError: if llguidance is not installed.
        """
        require_llguidance()
        size = len(source.encode())
        if size > MAX_LARK_BYTES:
            raise InputError(
                f"the grammar has {size} bytes, expected at most {MAX_LARK_BYTES}; use fewer "
                "tools, or smaller schemas"
            )
        return self._compiler.get(source)

    def _compile(self, source: str) -> "Grammar":
        """Compile a grammar and compute its first mask, because some errors appear only there."""
        from llguidance import LLMatcher

        matcher = LLMatcher(self._llguidance_tokenizer(), source, log_level=0, limits=_limits())
        _check(matcher, "the schema cannot be followed")
        grammar = Grammar(self._vocab_size, matcher)
        grammar.logits_processor()(torch.zeros(self._vocab_size), [])
        return grammar

    def _llguidance_tokenizer(self) -> "LLTokenizer":
        if self._parent is not None:
            return self._parent._llguidance_tokenizer()
        with self._lock:
            if self._llg_tokenizer is None:
                vocabulary = llguidance_vocabulary(self._tokenizer, self._vocab_size)
                self._llg_tokenizer = vocabulary.build()
            return self._llg_tokenizer


@dataclass(frozen=True, eq=False)
class Grammar:
    """A compiled grammar that any number of sequences can follow at the same time.

    Attributes:
        vocab_size: number of ids of the model.
        matcher: llguidance's matcher at the beginning of a text. It is only copied, never advanced.
    """

    vocab_size: int
    matcher: "LLMatcher"

    def logits_processor(self) -> LogitsProcessor:
        """Return a logits processor that makes one sequence follow the grammar from its start.

        When the text is complete, only the end of text can be sampled. The processor raises
        InputError if the sequence violates the grammar or a step exceeds the parser's limits.
        """
        return Constraint(self.vocab_size, self.matcher.deep_copy())


class Constraint:
    """The logits processor of one sequence that follows a grammar.

    It is a `DraftGuide`: it tells speculative decoding which drafts are certain or impossible.
    """

    def __init__(self, vocab_size: int, matcher: "LLMatcher") -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._bits = np.zeros((vocab_size + 31) // 32, np.int32)
        self._n_consumed = 0

    def __call__(self, logits: Tensor, sampled: Sequence[int]) -> Tensor:
        """Return logits (V,) in which the ids that the grammar excludes here are minus infinity.

        Raises:
            InputError: if the sampled ids violate the grammar, or no text can follow them.
        """
        if logits.shape != (self._vocab_size,):
            raise InputError(
                f"the logits have the shape {tuple(logits.shape)}, the grammar was made for "
                f"{self._vocab_size} ids"
            )
        self._consume(sampled)
        forbidden = self._forbidden(self._matcher).to(logits.device)
        with thread_limit(1):  # the work is done before a second thread would wake up
            return torch.where(forbidden, -torch.inf, logits)

    def certain(self, sampled: Sequence[int], most: int) -> list[int]:
        """Return up to `most` ids that must follow the sampled ones, before the end of text."""
        certain: list[int] = []
        try:
            self._consume(sampled)
            matcher = self._matcher
            while len(certain) < most:
                allowed = torch.nonzero(~self._forbidden(matcher))[:2, 0].tolist()
                if len(allowed) != 1:
                    break
                matcher = matcher if certain else matcher.deep_copy()
                if not matcher.consume_tokens(allowed):
                    break
                certain += allowed
        except InputError:  # the next call raises it again, where it concerns this sequence alone
            pass
        return certain

    def cut(self, sampled: Sequence[int], draft: Sequence[int]) -> list[int]:
        """Return the ids of a draft before the first one that the grammar excludes."""
        try:
            self._consume(sampled)
        except InputError:
            return []
        return list(draft[: self._matcher.validate_tokens(list(draft))])

    def _consume(self, sampled: Sequence[int]) -> None:
        new = list(sampled[self._n_consumed :])
        self._n_consumed = len(sampled)
        if new and not self._matcher.consume_tokens(new):
            _check(self._matcher, "the text left the grammar")

    def _forbidden(self, matcher: "LLMatcher") -> Tensor:
        """Return which ids are excluded, (V,) bool."""
        bits = self._bits
        matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
        if "NoExtensionBias" in matcher.get_error():
            raise InputError(
                "no text satisfies the grammar; look for a part of the schema that refers only to "
                "itself, or for rules that exclude each other"
            )
        _check(matcher, "the grammar cannot be followed any further")
        flags = np.unpackbits(np.invert(bits).view(np.uint8), bitorder="little")
        return torch.from_numpy(flags[: self._vocab_size]).view(torch.bool)


def inline_json(schema: Any, *, lenient: bool = False) -> str:
    """Return a JSON schema in the form that a Lark grammar contains: `%json {...}`.

    Raises:
        InputError: if it is not a schema, or too large, deep or complex.
    """
    text = checked_json(schema)
    layout = LAYOUT + (',"lenient":true}' if lenient else "}")
    return f"%json {{{layout}{', ' if schema else ''}{text[1:]}"


def _limits() -> "LLParserLimits":
    from llguidance import LLParserLimits

    return LLParserLimits(max_lexer_states=MAX_LEXER_STATES, verbose_errors=False)


def _check(matcher: "LLMatcher", what: str) -> None:
    """Raise an error with llguidance's reason, on one line, if a matcher has failed."""
    if matcher.is_error():
        reason = " ".join(re.sub(NOISE, "", matcher.get_error()).split())
        if len(reason) > MAX_MESSAGE:
            reason = reason[:MAX_MESSAGE] + "..."
        raise InputError(f"{what}: {reason}; change or remove that part of the schema")
