"""ChatRWKV's rules for newlines and punctuation, as a logits processor.

A newline cannot begin a reply; it becomes more probable up to the 40th token, and is encouraged
after the 150th. The end of the document is never sampled, and Chinese punctuation does not repeat
immediately.

Source: ChatRWKV, chat.py, with two fixes: the double newline is treated like the single one, and
the rules apply to the first token too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wkv.tokenizers import Tokenizer

FORBIDDEN = -999999999.0
SHORT, LONG = 40, 150
"""Numbers of tokens up to which newlines are discouraged, and after which they are encouraged."""

PUNCTUATION = "，：？！"
NEWLINES = ("\n", "\n\n", "\n\n\n")


def newline_adjustment(i: int) -> float:
    """Return the value that is added to the logits of newlines after token i of a reply.

    i <= 0: forbidden ; i <= 40: (i - 40) / 10 ; i <= 150: 0 ; beyond: min(3, (i - 150) / 4)

    i = -1 is the end of the prompt.
    """
    if i <= 0:
        return FORBIDDEN
    if i <= SHORT:
        return (i - SHORT) / 10
    if i <= LONG:
        return 0.0
    return min(3.0, 0.25 * (i - LONG))


@dataclass(frozen=True)
class NewlineRules:
    """The logits processor of one reply; pass it to `wkv.stream` as `logits_processor`.

    Attributes:
        newlines: ids of single, double and triple newlines.
        punctuation: ids that are not sampled directly after themselves.
        last_read: last id of the prompt.
        end_of_text: an id that is never sampled, or None.
        adjustment: returns the value that is added to the logits of newlines after token i.
    """

    newlines: tuple[int, ...]
    punctuation: frozenset[int]
    last_read: int | None
    end_of_text: int | None
    adjustment: Callable[[int], float]

    def __call__(self, logits: Tensor, sampled: Sequence[int]) -> Tensor:
        """Return adjusted logits (V,); the given logits are not changed."""
        logits = logits.clone()
        adjustment = self.adjustment(len(sampled) - 1)
        if adjustment and self.newlines:
            logits[list(self.newlines)] += adjustment
        if self.end_of_text is not None:
            logits[self.end_of_text] = -torch.inf
        last = sampled[-1] if sampled else self.last_read
        if last in self.punctuation:
            logits[last] = -torch.inf
        return logits


def for_chat(tokenizer: Tokenizer, last_read: int | None) -> NewlineRules:
    """Return the rules for a reply in a chat."""
    return NewlineRules(
        _single_tokens(tokenizer, NEWLINES),
        frozenset(_single_tokens(tokenizer, PUNCTUATION)),
        last_read,
        tokenizer.end_of_text,
        newline_adjustment,
    )


def for_free_text(tokenizer: Tokenizer, last_read: int | None, adjustment: float) -> NewlineRules:
    """Return the rules for free text: a constant adjustment of newlines, and the text may end."""
    return NewlineRules(
        _single_tokens(tokenizer, NEWLINES),
        frozenset(_single_tokens(tokenizer, PUNCTUATION)),
        last_read,
        None,
        lambda _: adjustment,
    )


def _single_tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[int, ...]:
    """Return the ids of the texts that consist of one token."""
    encoded = [tokenizer.encode(text) for text in texts]
    return tuple(ids[0] for ids in encoded if len(ids) == 1)
