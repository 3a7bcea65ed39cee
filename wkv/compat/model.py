"""`RWKV`, the model class of the `rwkv` package, for every generation, on `wkv.Model`.

Kept from the package: the signature, the flat state that is overwritten in place, (V,) logits for a
single token even with full_output. Mended: logits are float32 in every generation, a path may end
in `.pth` or not in every generation, an empty list is an error, nothing depends on the environment.

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
from wkv.errors import InputError
from wkv.inference.load import load
from wkv.inference.model import Model

VERSIONS = {"4": 4, "5.0": 5, "5.1": 5.1, "5.2": 5.2, "6": 6.0, "7": 7.0, "7a": 7.0}
"""Generation to the number that the package calls the model's version."""

Tokens = int | Sequence[int] | Tensor


class RWKV:
    """A model with the interface of the `rwkv` package.

    Attributes:
        model: the `wkv.Model` that computes.
        args: sizes and names: MODEL_NAME, strategy_string, n_layer, n_embd, n_att, n_ffn,
            vocab_size, time_state (whether the file has a tuned initial state), and, except in
            generation 4, n_head and head_size.
        strategy: for each layer, and one more for the head: device (str), atype, wtype
            (torch.uint8 where the weights are int8), stream (bool).
        version: 4, 5, 5.1, 5.2, 6.0 or 7.0 (also for 7a).
        n_layer, n_embd, n_head, head_size: as in args; heads are None in generation 4.
        RESCALE_LAYER: 0; wkv's float32 stream needs no rescaling.
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
            model: the checkpoint, with or without its ending.
            strategy: such as "cpu fp32" or "cuda fp16 *10 -> cpu bf16"; see `wkv.load`.
            verbose: tell on stderr what was loaded.
            convert_and_save_and_exit: first write the checkpoint there, prepared for the strategy,
                over what is there. The process goes on; the object is of use as any other.

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
            _tell(f"loaded {self.model!r}")

    def forward(
        self, tokens: Tokens, state: list[Tensor] | None = None, full_output: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Read tokens and predict the next.

        Args:
            tokens: at least one id: a list, a tuple, a 1-D tensor or array, or a single number.
            state: what was read before, as `wkv.compat.state_lists` lays it out; None is the empty
                state. The list is overwritten with the new state, its old tensors stay as they
                are; copy.deepcopy makes a snapshot.
            full_output: the logits after every token, if there are several.

        Returns:
            Logits float32, (V,) or, for several tokens with full_output, (T, V); and the state,
            which is the list that was given.

        Raises:
            InputError: for no tokens, or what is no id of the model.
            StateError: for a list that is no state of this model.
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

    def generate_zero_state(self) -> list[Tensor]:
        """The state before the first token: empty, or the tuned one of a file that has one."""
        return self._states.flatten(self.model.new_state())

    def eval(self) -> "RWKV":
        """The model itself, which knows nothing but inference."""
        return self

    @property
    def w(self) -> Mapping[str, Tensor]:
        """The weights by their official names, read-only.

        Unlike the package's they are as in the file: matrices are (out, in), `blocks.0.ln0` is not
        folded into `emb.weight`, decays are raw.
        """
        return MappingProxyType(self.model.network.state_dict())

    @property
    def z(self) -> Mapping[str, Tensor]:
        """As `w`; generation 7's name for it in the package."""
        return self.w


def _path(path: str | os.PathLike[str]) -> str:
    """A path as text, without blanks around it."""
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"a path is text, {type(path).__name__} was given; give the .pth file")
    return os.fspath(path).strip()


def _convert(path: str, destination: str, strategy: str, verbose: bool) -> None:
    """Write a checkpoint, prepared for a strategy, for which its devices need not be here."""
    from wkv.convert.checkpoint_file import convert

    if not destination.endswith(".pth"):
        destination += ".pth"
    convert(path, destination, to="pth", strategy=strategy, overwrite=True)
    if verbose:
        _tell(f"converted {path} to {destination} for {strategy}")


def _ids(tokens: Tokens) -> list[int]:
    """Tokens as a list of at least one id.

    Raises:
        InputError: for anything that is not integers in one row, and for none.
    """
    # tensors and arrays have tolist, and so do their single numbers
    plain: Any = tokens.tolist() if hasattr(tokens, "tolist") else tokens
    if isinstance(plain, int):
        return [plain]
    try:
        ids = [operator.index(token) for token in plain]
    except TypeError as error:
        raise InputError(
            f"tokens must be integers in one row, {type(tokens).__name__} was given ({error}); "
            "give a list of ids, such as a tokenizer's encode returns"
        ) from error
    if not ids:
        raise InputError("no tokens were given; give at least one id (0 begins a document)")
    return ids


def _args(model: Model) -> SimpleNamespace:
    """The package's `args` of a model."""
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
    """Whether the model begins with a state that is not empty."""
    if model.config.generation == "4":
        return False
    return any(bool(layer.wkv.any()) for layer in model.new_state().layers)


def _placements(model: Model) -> list[SimpleNamespace]:
    """The package's `strategy`: where each layer, and last the head, runs."""
    return [
        SimpleNamespace(
            device=str(place.device),
            atype=place.dtype,
            wtype=torch.uint8 if place.quantized else place.dtype,
            stream=place.streamed,
        )
        for place in (model.strategy.layers[i] for i in range(model.config.n_layer + 1))
    ]


def _tell(line: str) -> None:
    """A notice for people; data goes to stdout."""
    sys.stderr.write(f"{line}\n")
