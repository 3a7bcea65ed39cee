"""The state of a model as a cache, with the interface that transformers' generation expects.

Its size does not depend on the length of the text. It cannot be cut back to an earlier token, so
transformers refuses generation methods that need this (assisted decoding, prompt lookup).
"""

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from wkv.hf.config_checks import CACHE_NAMES

CACHE_NAME = next(
    name for name in CACHE_NAMES if name in {field.name for field in fields(CausalLMOutputWithPast)}
)
"""The name that the installed transformers uses in its outputs and passes to `forward`."""

LayerState = tuple[Tensor, Tensor, Tensor]
"""Time mix shift (B, D), recurrent state (shape by generation), channel mix shift (B, D)."""


class RwkvCache(Cache):
    """The state of a model after the tokens so far, and their number.

    A forward pass does not modify its cache but returns a new one. A prefix that was processed
    once can therefore be continued many times.

    Attributes:
        states: one LayerState per layer, float32; empty before the first token.
        seen: number of tokens so far, including padding, which is the number of columns of an
            attention mask.
    """

    def __init__(self, states: Sequence[LayerState] = (), seen: int = 0) -> None:
        super().__init__(layers=[])
        self.states = list(states)
        self.seen = seen

    def __repr__(self) -> str:
        """Show the numbers of layers, rows and tokens."""
        return f"RwkvCache({len(self)} layers, {self.batch_size} rows, {self.seen} tokens)"

    def __len__(self) -> int:
        return len(self.states)

    def clone(self) -> "RwkvCache":
        """Return a copy that shares no memory with this cache."""
        copy = RwkvCache(self.states, self.seen)
        copy._change(lambda tensor: tensor.clone())
        return copy

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of tokens so far, which generation removes from the ids it passes."""
        return self.seen

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """Return -1, because the length of a text is not limited."""
        return -1

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """Return -1; this is the older name of `get_max_length`."""
        return -1

    def has_previous_state(
        self, layer_idx: int | None = None, state_idx: int | None = None
    ) -> bool:
        """Check whether any token was processed."""
        return self.seen > 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Replace row i by a copy of row beam_idx[i]."""
        self._change(lambda tensor: tensor.index_select(0, beam_idx.to(tensor.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Replace each row by `repeats` consecutive copies of it."""
        self._change(lambda tensor: tensor.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only the rows that the indices or a boolean mask select."""
        self._change(lambda tensor: tensor[indices.to(tensor.device)])

    def reset(self) -> None:
        """Reset the cache to its initial, empty state."""
        self.states, self.seen = [], 0

    def crop(self, *args: Any, **kwargs: Any) -> None:
        """Refuse to crop, because tokens cannot be removed from a recurrent state.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "an RWKV state cannot be cut back to an earlier token; clone() the cache before "
            "tokens that you may want to remove"
        )

    @property
    def batch_size(self) -> int:
        """The number of rows, or -1 before the first token."""
        return len(self.states[0][0]) if self.states else -1

    @property
    def is_initialized(self) -> bool:
        """Whether the cache contains tensors."""
        return bool(self.states)

    @property
    def is_linear(self) -> list[bool]:
        """False for each layer, so that transformers removes tokens that were already processed."""
        return [False] * len(self.states)

    @property
    def is_croppable(self) -> bool:
        """Whether `crop` is supported, which is always False."""
        return False

    @property
    def is_compileable(self) -> bool:
        """Whether graphs can be captured: False, because each pass creates a new cache."""
        return False

    def _change(self, change: Callable[[Tensor], Tensor]) -> None:
        self.states = [
            (change(att_shift), change(wkv), change(ffn_shift))
            for att_shift, wkv, ffn_shift in self.states
        ]
