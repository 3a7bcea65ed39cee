"""Reading text into a state, in pieces, so that one can see how far it is and stop it."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from wkv.inference.generate import Prompt, prompt_ids
from wkv.inference.model import TOKENS_AT_ONCE, Model
from wkv.models.state import State
from wkv.tokenizers import Tokenizer

Progress = Callable[[int, int], None]
"""Called with the tokens read so far, and in all."""


@dataclass(frozen=True)
class Read:
    """A text that was read.

    Attributes:
        state: after it.
        tokens: how many were read.
        last: the last one's id.
        seconds: how long it took.
    """

    state: State
    tokens: int
    last: int
    seconds: float


def read(
    model: Model, prompt: Prompt, state: State | None, progress: Progress | None = None
) -> Read:
    """Read a text after a state (None: the empty one); the state given does not change.

    Raises:
        InputError: if there is nothing to read.
        KeyboardInterrupt: passes through; nothing has happened then.
    """
    ids = prompt_ids(model, prompt, state)
    begun = time.perf_counter()
    state = state or model.new_state()
    for start in range(0, len(ids), TOKENS_AT_ONCE):
        _, state = model.forward(ids[start : start + TOKENS_AT_ONCE], state)
        if progress is not None:
            progress(min(start + TOKENS_AT_ONCE, len(ids)), len(ids))
    return Read(state, len(ids), ids[-1], time.perf_counter() - begun)


def with_single_newlines(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """Ids of an opening prompt that ends as it would before a word.

    The 20B tokenizer has one id for two newlines at the end of a text and two before a word, which
    is what its models were trained on: a final 535 becomes 187, 187. Source: ChatRWKV, chat.py.
    """
    single, double = tokenizer.encode("\n"), tokenizer.encode("\n\n")
    before_a_word = tokenizer.encode("\n\nA")[:2] == 2 * single
    if before_a_word and len(double) == 1 and ids[-1:] == double:
        return ids[:-1] + 2 * single
    return ids
