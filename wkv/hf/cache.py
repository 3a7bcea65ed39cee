"""The state of a model in the form that transformers' generation expects of a cache.

Its size does not grow with the text. It cannot be cut back to an earlier token either, so what
needs that (assisted decoding, prompt lookup) is refused by transformers.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

CACHE_NAMES = ("cache", "past_key_values")
"""What transformers has called a cache: `past_key_values` before 5.24, `cache` since then."""

CACHE_NAME = next(
    name for name in CACHE_NAMES if name in {field.name for field in fields(CausalLMOutputWithPast)}
)
"""The name that the installed transformers uses in its outputs and passes to `forward`."""

LayerState = tuple[Tensor, Tensor, Tensor]
"""Time mix shift (B, D), recurrent state (generation's shape), channel mix shift (B, D)."""


class RwkvCache(Cache):
    """What a model has read so far: one `LayerState` a layer, and the number of tokens.

    A forward pass leaves the cache it is given as it is and returns a new one, so a prefix read
    once may be continued many times.

    Attributes:
        states: one LayerState a layer, float32; empty before the first token.
        seen: tokens read, padding included, as the columns of an attention mask are counted.
    """

    def __init__(self, states: Sequence[LayerState] = (), seen: int = 0) -> None:
        super().__init__(layers=[])
        self.states = list(states)
        self.seen = seen

    def __repr__(self) -> str:
        """Layers, rows and tokens."""
        return f"RwkvCache({len(self)} layers, {self.batch_size} rows, {self.seen} tokens)"

    def __len__(self) -> int:
        return len(self.states)

    def clone(self) -> "RwkvCache":
        """A copy that shares no memory with this cache."""
        copy = RwkvCache(self.states, self.seen)
        copy._change(lambda tensor: tensor.clone())
        return copy

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens read so far; generation cuts them off the ids it is given."""
        return self.seen

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """-1: there is no longest text."""
        return -1

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """-1, the older name of `get_max_length`."""
        return -1

    def has_previous_state(
        self, layer_idx: int | None = None, state_idx: int | None = None
    ) -> bool:
        """Whether anything was read."""
        return self.seen > 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Make row i a copy of what was row beam_idx[i]."""
        self._change(lambda tensor: tensor.index_select(0, beam_idx.to(tensor.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Put `repeats` copies of each row one after another."""
        self._change(lambda tensor: tensor.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows of these numbers, or those that a mask says."""
        self._change(lambda tensor: tensor[indices.to(tensor.device)])

    def reset(self) -> None:
        """Forget everything."""
        self.states, self.seen = [], 0

    def crop(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: what a state has absorbed cannot be taken out again.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "an RWKV state cannot be cut back to an earlier token; clone() the cache before the "
            "tokens that may have to go"
        )

    @property
    def batch_size(self) -> int:
        """Rows, or -1 before the first token."""
        return len(self.states[0][0]) if self.states else -1

    @property
    def is_initialized(self) -> bool:
        """Whether there are tensors."""
        return bool(self.states)

    @property
    def is_linear(self) -> list[bool]:
        """False for each layer: transformers then cuts off the tokens that were already read."""
        return [False] * len(self.states)

    @property
    def is_croppable(self) -> bool:
        """False, see `crop`."""
        return False

    @property
    def is_compileable(self) -> bool:
        """False: every pass makes a new cache, which a captured graph cannot."""
        return False

    def _change(self, change: Callable[[Tensor], Tensor]) -> None:
        self.states = [
            (change(att_shift), change(wkv), change(ffn_shift))
            for att_shift, wkv, ffn_shift in self.states
        ]
