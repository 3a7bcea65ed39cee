"""`RWKV`, the model class of the `rwkv` package, for all generations, based on `wkv.Model`.

`RWKV_x070` is another name of it.

As in the package: the signature, the flat state that is overwritten in place, and (V,) logits for a
single token even with full_output. Fixed: logits are float32 in every generation, the suffix `.pth`
of a path is optional in every generation, an empty list raises an error, and environment variables
have no effect.

Source: `rwkv` package, model.py.
"""

import operator
import os
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from wkv.compat.state_lists import FlatStates
from wkv.compat.unsupported import MODEL, MODEL_CLASS, refuse_attribute, refuse_import
from wkv.errors import InputError
from wkv.inference.load import load
from wkv.inference.model import Model

VERSIONS = {"4": 4, "5.0": 5, "5.1": 5.1, "5.2": 5.2, "6": 6.0, "7": 7.0, "7a": 7.0}
"""Generation to the version number that the package uses."""

Tokens = int | Sequence[int] | Tensor


class RWKV:
    """A model with the interface of the `rwkv` package.

    Attributes:
        model: the `wkv.Model` that computes.
        args: sizes and names: MODEL_NAME, strategy_string, n_layer, n_embd, n_att, n_ffn,
            vocab_size, time_state (whether the file has a tuned initial state), and, except in
            generation 4, n_head and head_size.
        strategy: one entry per layer and one for the head: device (str), atype, wtype (torch.uint8
            if the weights are int8), stream (bool).
        version: 4, 5, 5.1, 5.2, 6.0 or 7.0 (also for 7a).
        n_layer, n_embd, n_head, head_size: as in args; heads are None in generation 4.
        RESCALE_LAYER: 0; wkv's residual stream is float32 and needs no rescaling.
    """

    RESCALE_LAYER = 0

    def __init__(
        self,
        model: str | os.PathLike[str],
        strategy: str,
        verbose: bool = True,
        convert_and_save_and_exit: str | os.PathLike[str] | None = None,
    ) -> None:
        """Load a model.

        Args:
            model: the checkpoint, with or without its suffix.
            strategy: such as "cpu fp32" or "cuda fp16 *10 -> cpu bf16"; see `wkv.load`.
            verbose: print on stderr what was loaded.
            convert_and_save_and_exit: a file to write the checkpoint to first, prepared for the
                strategy; an existing file is replaced. Despite the name, the process does not exit,
                and the object can be used normally.

        Raises:
            CheckpointError, StrategyError: as `wkv.load` and `wkv.convert.checkpoint_file.convert`.
        """
        path = _path(model)
        if convert_and_save_and_exit is not None:
            _convert(path, _path(convert_and_save_and_exit), strategy, verbose)
        self.model = load(path, strategy)
        self._states = FlatStates(self.model)
        self.args = _args(self.model)
        self.strategy = _placements(self.model)
        self.version = VERSIONS[self.model.config.generation]
        self.n_layer, self.n_embd = self.model.config.n_layer, self.model.config.n_embd
        self.n_head, self.head_size = self.model.config.n_head, self.model.config.head_size
        if verbose:
            _notice(f"loaded {self.model!r}")

    def forward(
        self, tokens: Tokens, state: list[Tensor] | None = None, full_output: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Read tokens and predict the next token.

        Args:
            tokens: at least one id: a list, a tuple, a 1-D tensor or array, or a single number.
            state: the state before the tokens, as a list described in `wkv.compat.state_lists`;
                None: the empty state. The list is overwritten with the new state, but its old
                tensors are not changed; copy.deepcopy makes a snapshot.
            full_output: whether to return the logits after every token, if there are several.

        Returns:
            Logits float32, (V,) or, for several tokens with full_output, (T, V); and the state,
            which is the same list if one was passed.

        Raises:
            InputError: if there are no tokens, or ids that the model does not have.
            StateError: if the list is not a state of this model.
        """
        ids = _ids(tokens)
        known = None if state is None else self._states.restore(state)
        logits, new_state = self.model.forward(ids, known, all_logits=full_output and len(ids) > 1)
        flat = self._states.flatten(new_state)
        if state is None:
            return logits, flat
        state[:] = flat
        return logits, state

    __call__ = forward

    def forward_one(
        self, idx: int, state: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Read one token; see `forward`."""
        return self.forward(idx, state)

    def forward_seq(
        self, idx: Tokens, state: list[Tensor] | None = None, full_output: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Read several tokens; see `forward`."""
        return self.forward(idx, state, full_output)

    def generate_zero_state(self) -> list[Tensor]:
        """Return the initial state: empty, or the tuned state if the file contains one."""
        return self._states.flatten(self.model.new_state())

    def eval(self) -> "RWKV":
        """Return the model itself, which is always in inference mode."""
        return self

    @property
    def w(self) -> Mapping[str, Tensor]:
        """The weights by their official names, read-only.

        Unlike in the package they are as stored in the file: matrices are (out, in), `blocks.0.ln0`
        is not folded into `emb.weight`, and decays are not transformed.
        """
        return MappingProxyType(self.model.network.state_dict())

    @property
    def z(self) -> Mapping[str, Tensor]:
        """The weights as in `w`; the package uses this name for generation 7."""
        return self.w

    def __getattr__(self, name: str) -> Any:
        refuse_attribute(self, name, [MODEL_CLASS])


RWKV_x070 = RWKV
"""The package's class for generation 7. Here it is the same class."""


def __getattr__(name: str) -> Any:
    refuse_import(__name__, name, MODEL)


def _path(path: str | os.PathLike[str]) -> str:
    """Return a path as text, without leading and trailing blanks."""
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(
            f"the path is a {type(path).__name__}, expected text; pass the path of the .pth file"
        )
    return os.fspath(path).strip()


def _convert(path: str, destination: str, strategy: str, verbose: bool) -> None:
    """Write a checkpoint prepared for a strategy, whose devices need not exist on this machine."""
    from wkv.convert.checkpoint_file import convert

    if not destination.endswith(".pth"):
        destination += ".pth"
    convert(path, destination, to="pth", strategy=strategy, overwrite=True)
    if verbose:
        _notice(f"converted {path} to {destination} for {strategy}")


def _ids(tokens: Tokens) -> list[int]:
    """Return tokens as a list of at least one id.

    Raises:
        InputError: if the tokens are not integers in one dimension, or there are none.
    """
    # Tensors, arrays and their scalars have tolist.
    plain: Any = tokens.tolist() if hasattr(tokens, "tolist") else tokens
    if isinstance(plain, int):
        return [plain]
    try:
        ids = [operator.index(token) for token in plain]
    except TypeError as error:
        raise InputError(
            f"tokens must be integers in one dimension, not {type(tokens).__name__} ({error}); "
            "pass a list of ids, such as a tokenizer's encode returns"
        ) from error
    if not ids:
        raise InputError("no tokens were given; pass at least one id (0 begins a document)")
    return ids


def _args(model: Model) -> SimpleNamespace:
    """Return the attribute `args` of the package for a model."""
    config = model.config
    heads = {} if config.n_head is None else {"n_head": config.n_head}
    if config.head_size is not None:
        heads["head_size"] = config.head_size
    return SimpleNamespace(
        MODEL_NAME=str(model.path),
        strategy_string=str(model.strategy),
        n_layer=config.n_layer,
        n_embd=config.n_embd,
        n_att=config.dim_att,
        n_ffn=config.dim_ffn,
        vocab_size=config.vocab_size,
        time_state=_is_tuned(model),
        **heads,
    )


def _is_tuned(model: Model) -> bool:
    """Return whether the initial state of the model is not empty."""
    if model.config.generation == "4":
        return False
    return any(bool(layer.wkv.any()) for layer in model.new_state().layers)


def _placements(model: Model) -> list[SimpleNamespace]:
    """Return the attribute `strategy` of the package: the placement of each layer and the head."""
    return [
        SimpleNamespace(
            device=str(place.device),
            atype=place.dtype,
            wtype=torch.uint8 if place.quantized else place.dtype,
            stream=place.streamed,
        )
        for place in (model.strategy.layers[i] for i in range(model.config.n_layer + 1))
    ]


def _notice(line: str) -> None:
    """Print a message to stderr, because stdout is for data."""
    sys.stderr.write(f"{line}\n")
