"""What ChatRWKV does to the logits of a chat before penalties and the draw.

A newline may not begin a reply, comes easily from the 40th token on and is pushed for after the
150th; the end of the document is never drawn; marks of Chinese writing do not repeat at once.
Source: ChatRWKV, chat.py, with its defects mended: the double newline is treated like the single
one, and the rules hold for the first token too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wkv.tokenizers import Tokenizer

FORBIDDEN = -999999999.0
SHORT, LONG = 40, 150
"""Tokens from which on a reply may end easily, and should."""

AVOID_REPEAT = "，：？！"
NEWLINES = ("\n", "\n\n", "\n\n\n")


def newline_adjustment(i: int) -> float:
    """What is added to the logits of newlines after token number i of a reply; -1 is the prompt.

    i <= 0: forbidden ; i <= 40: (i - 40) / 10 ; i <= 150: 0 ; beyond: min(3, (i - 150) / 4)
    """
    if i <= 0:
        return FORBIDDEN
    if i <= SHORT:
        return (i - SHORT) / 10
    if i <= LONG:
        return 0.0
    return min(3.0, 0.25 * (i - LONG))


@dataclass(frozen=True)
class Schedule:
    """The adjustment of one reply's logits; give it to `wkv.stream` as `logits_processor`.

    Attributes:
        newlines: ids of single, double and triple newlines.
        marks: ids that are not drawn right after themselves.
        last_read: the prompt's last id.
        end_of_text: an id that is not drawn, or None.
        newline: what is added to the newlines' logits after token i.
    """

    newlines: tuple[int, ...]
    marks: frozenset[int]
    last_read: int | None
    end_of_text: int | None
    newline: Callable[[int], float]

    def __call__(self, logits: Tensor, drawn: Sequence[int]) -> Tensor:
        """New logits (V,); those given do not change."""
        logits = logits.clone()
        adjustment = self.newline(len(drawn) - 1)
        if adjustment and self.newlines:
            logits[list(self.newlines)] += adjustment
        if self.end_of_text is not None:
            logits[self.end_of_text] = -torch.inf
        last = drawn[-1] if drawn else self.last_read
        if last in self.marks:
            logits[last] = -torch.inf
        return logits


def for_chat(tokenizer: Tokenizer, last_read: int | None) -> Schedule:
    """The schedule of a reply in a chat."""
    return Schedule(
        _single_tokens(tokenizer, NEWLINES),
        frozenset(_single_tokens(tokenizer, AVOID_REPEAT)),
        last_read,
        tokenizer.end_of_text,
        newline_adjustment,
    )


def for_free_text(tokenizer: Tokenizer, last_read: int | None, newline: float) -> Schedule:
    """The schedule of a free generation: `newline` throughout, and the text may end."""
    return Schedule(
        _single_tokens(tokenizer, NEWLINES),
        frozenset(_single_tokens(tokenizer, AVOID_REPEAT)),
        last_read,
        None,
        lambda _: newline,
    )


def _single_tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[int, ...]:
    """The ids of those texts that are one token."""
    encoded = [tokenizer.encode(text) for text in texts]
    return tuple(ids[0] for ids in encoded if len(ids) == 1)
