"""A draft model: a small model with the same vocabulary drafts tokens for a large one.

It samples with the penalties, bans and random numbers that the large model will use for the same
token. Two models that share the noise sample the same token with a probability of at least
(1 - D) / (1 + D), where D is the total variation distance of their distributions.

Source: Daliri, Musco, Suresh 2024, Coupling without communication and drafter-invariant
speculative decoding.
"""

import time
from collections import deque
from collections.abc import Sequence
from statistics import median

from wkv.errors import InputError
from wkv.inference.model import Model
from wkv.inference.sample_batch import sample_batch
from wkv.inference.sequence import RunningSequence
from wkv.models.state import State
from wkv.tokenizers import Tokenizer

READ_AT_ONCE = 512
"""Tokens of a long text that the draft model reads between two passes of the large model."""

READERS = 16
"""Sequences whose states are remembered, so that the next turn of a conversation is short."""

SAMPLES = 15


class DraftModel:
    """A model that drafts, and the sequences that it read last.

    Attributes:
        model: the small model.
    """

    def __init__(self, model: Model, large: Model) -> None:
        """Accept a model whose vocabulary equals that of the large one.

        Raises:
            InputError: if it is not a loaded model, or has another vocabulary.
        """
        if not isinstance(model, Model):
            raise InputError(
                f"draft is a loaded wkv.Model, {type(model).__name__} was given; use wkv.load"
            )
        _check_vocabulary(model, large)
        self.model = model
        self._large = large
        self._readers: deque[tuple[str, DraftReader]] = deque(maxlen=READERS)
        self._seconds: deque[float] = deque(maxlen=SAMPLES)

    @property
    def seconds(self) -> float | None:
        """The median time of a pass of one token; None until some were measured."""
        return float(median(self._seconds)) if len(self._seconds) >= 3 else None

    @property
    def relative_size(self) -> float:
        """The share of the large model's weights."""
        return float(self.model.weight_bytes / self._large.weight_bytes)

    def reader(self, context: Sequence[int], owner: str | None = "") -> "DraftReader":
        """Return a reader of a new sequence; it continues from what the owner's sequences read.

        Args:
            context: the tokens before the sequence.
            owner: whose sequence it is; None remembers nothing of it.
        """
        reader = DraftReader(self, context)
        if owner is None:
            return reader
        own = (other for name, other in self._readers if name == owner)
        best = max(own, key=lambda other: other.common(context), default=None)
        if best is not None and best.common(context):
            reader.resume(best)
        self._readers.append((owner, reader))
        return reader

    def forward(self, ids: Sequence[int], state: State | None) -> State:
        """Read tokens, and measure the time of a pass of one token."""
        begun = time.perf_counter()
        _, state = self.model.forward(ids, state)
        if len(ids) == 1:
            self._seconds.append(time.perf_counter() - begun)
        return state


class DraftReader:
    """The draft model's reading of one sequence."""

    def __init__(self, owner: DraftModel, context: Sequence[int]) -> None:
        self._owner = owner
        self._context = list(context)
        self._ids: list[int] = []  # tokens of the sequence that the state has read
        self._state: State | None = None
        self._ahead: list[tuple[int, State]] = []  # drafts that were read, each with its state

    def common(self, ids: Sequence[int]) -> int:
        """Return how many of `ids` the state has read; 0 if it has read anything else."""
        count = len(self._ids)
        return count if list(ids[:count]) == self._ids else 0

    def resume(self, other: "DraftReader") -> None:
        """Continue from the state of another reader, whose ids the context begins with."""
        self._ids, self._state = list(other._ids), other._state

    def is_ready(self, sampled: Sequence[int]) -> bool:
        """Read what the sequence has gained; returns False if more than a part was missing."""
        known = len(self._context)
        for token, state in self._ahead:
            at = len(self._ids) - known
            if not 0 <= at < len(sampled) or sampled[at] != token:
                break
            self._ids.append(token)
            self._state = state
        self._ahead = []
        missing = self._context[len(self._ids) :]
        missing += sampled[max(0, len(self._ids) - known) :]
        part = missing[:READ_AT_ONCE]
        if part:
            self._state = self._owner.forward(part, self._state)
            self._ids += part
        return self._state is not None and len(part) == len(missing)

    def draft(self, sequence: RunningSequence, count: int) -> list[int]:
        """Sample drafts after the tokens that were read, as the large model would."""
        state, sampler = self._state, sequence.sampler.copy()
        tokenizer = self._owner.model.tokenizer
        drafts: list[int] = []
        while state is not None and state.logits is not None and len(drafts) < count:
            (token,) = sample_batch(state.logits, [sampler])
            if isinstance(token, InputError):
                break
            drafts.append(token)
            if len(drafts) < count:
                sampler.record(token, tokenizer.decode([token]))
                state = self._owner.forward([token], state)
                self._ahead.append((token, state))
        return drafts


def _check_vocabulary(model: Model, large: Model) -> None:
    """Raise InputError unless both models' tokenizers give each id the same bytes."""
    sizes = model.config.vocab_size, large.config.vocab_size
    if sizes[0] != sizes[1]:
        raise InputError(
            f"the draft model's vocabulary has {sizes[0]} ids and the model's has {sizes[1]}; "
            "use a draft model with the same vocabulary"
        )
    ours, theirs = _table(model.tokenizer), _table(large.tokenizer)
    if ours != theirs:
        different = sum(a != b for a, b in zip(ours, theirs, strict=False))
        different += abs(len(ours) - len(theirs))
        raise InputError(
            f"the draft model's vocabulary differs from the model's in {different} ids "
            f"({model.tokenizer.name} and {large.tokenizer.name}); use a draft model with the "
            "same vocabulary"
        )


def _table(tokenizer: Tokenizer) -> list[bytes]:
    return [tokenizer.decode_bytes([token]) for token in range(tokenizer.vocab_size)]
