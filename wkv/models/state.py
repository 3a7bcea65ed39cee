"""The state of a model: all that it remembers of the tokens it has read.

A state is a value. `forward` takes one and hands back a new one; nothing in this package changes
a state in place. It knows nothing of text. On disk it is a safetensors file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from wkv.errors import StateError

FORMAT = "wkv-state-1"


class MakesStates(Protocol):
    """What a state must know of a model to be read from a file."""

    config: Any

    def new_state(self, batch_size: int = 1) -> State:
        """The empty state."""
        ...


@dataclass(frozen=True, slots=True)
class LayerState:
    """What one layer remembers, for B rows.

    Attributes:
        att_shift: (B, D) float32, the time mix's last input after its layer norm.
        wkv: float32. Generation 4: (B, 3, A) numerator, denominator, largest exponent.
            Generations 5 to 7: (B, H, N, N), axes (value, key).
        ffn_shift: (B, D) float32, the channel mix's last input after its layer norm.
    """

    att_shift: Tensor
    wkv: Tensor
    ffn_shift: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> LayerState:
        """The same layer state with `function` applied to each tensor."""
        return LayerState(function(self.att_shift), function(self.wkv), function(self.ffn_shift))


@dataclass(frozen=True, slots=True, repr=False)
class State:
    """The state of a model for a batch of rows.

    Attributes:
        layers: one LayerState per layer.
        tokens_seen: for each row, the number of tokens it has absorbed.
        generation: of the model, "4" to "7a".
        identity: digest of the model's tensors; a state is only of use to the model that made it.
        logits: (B, V) float32, what the model predicts after the last token; None if it has read
            nothing. With it, generation can go on without a prompt.
    """

    layers: tuple[LayerState, ...]
    tokens_seen: tuple[int, ...]
    generation: str
    identity: str
    logits: Tensor | None = None

    def __repr__(self) -> str:
        """Generation, rows and tokens seen; no tensors."""
        seen = ", ".join(map(str, self.tokens_seen))
        return f"<State of RWKV-{self.generation}, rows that have seen {seen} tokens>"

    @property
    def batch_size(self) -> int:
        """Number of rows."""
        return len(self.tokens_seen)

    @property
    def device(self) -> torch.device:
        """Where the tensors of the first layer are."""
        return self.layers[0].wkv.device

    @property
    def n_bytes(self) -> int:
        """Bytes of the layers' tensors."""
        return sum(
            tensor.numel() * tensor.element_size()
            for layer in self.layers
            for tensor in (layer.att_shift, layer.wkv, layer.ffn_shift)
        )

    def clone(self) -> State:
        """A copy that shares no memory with this state."""
        return self._map(Tensor.clone)

    def rows(self, indices: Sequence[int]) -> State:
        """The given rows, in the given order, as a new state of len(indices) rows."""
        size = self.batch_size
        if not isinstance(indices, Sequence) or isinstance(indices, str):
            raise StateError(f"rows must be a list of numbers, {indices!r} was given")
        for index in indices:
            if not isinstance(index, int) or not -size <= index < size:
                raise StateError(
                    f"row {index!r} was asked of a state of {size} rows; "
                    f"rows are numbered 0 to {size - 1}"
                )
        wanted = torch.tensor([index % size for index in indices], dtype=torch.long)
        chosen = self._map(lambda tensor: tensor.index_select(0, wanted.to(tensor.device)))
        return replace(chosen, tokens_seen=tuple(self.tokens_seen[i] for i in indices))

    @staticmethod
    def stack(states: Sequence[State]) -> State:
        """Join states of one model into one batch, row after row."""
        states = list(states)
        if not states or not all(isinstance(state, State) for state in states):
            raise StateError("stack needs a list of at least one wkv.State, and nothing else")
        first = states[0]
        for state in states[1:]:
            if state.identity != first.identity:
                raise StateError("states of different models cannot share a batch")
            if state.device != first.device:
                raise StateError("states on different devices cannot share a batch")

        def join(name: str, index: int) -> Tensor:
            return torch.cat([getattr(state.layers[index], name) for state in states])

        layers = tuple(
            LayerState(join("att_shift", i), join("wkv", i), join("ffn_shift", i))
            for i in range(len(first.layers))
        )
        tokens_seen = tuple(count for state in states for count in state.tokens_seen)
        known = [state.logits for state in states if state.logits is not None]
        logits = torch.cat(known) if len(known) == len(states) else None
        return replace(first, layers=layers, tokens_seen=tokens_seen, logits=logits)

    def save(self, path: str | Path, notes: Mapping[str, str] | None = None) -> None:
        """Write the state as safetensors; the file appears whole or not at all.

        The header holds the format, the model's identity and generation, the shapes and dtype,
        the number of tokens seen, and `notes`: texts of your own, which `read_header` gives back.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        tensors = {
            f"layers.{index}.{name}": getattr(layer, name).detach().cpu().contiguous()
            for index, layer in enumerate(self.layers)
            for name in ("att_shift", "wkv", "ffn_shift")
        }
        if self.logits is not None:
            tensors["logits"] = self.logits.detach().cpu().contiguous()
        header = {
            "format": FORMAT,
            "generation": self.generation,
            "identity": self.identity,
            "shapes": json.dumps({name: list(tensor.shape) for name, tensor in tensors.items()}),
            "dtype": "float32",
            "tokens_seen": json.dumps(list(self.tokens_seen)),
        }
        if notes:
            header["notes"] = json.dumps(dict(notes))
        header["digest"] = _digest(tensors, header.get("notes", ""))
        path = Path(path).expanduser()
        partial = path.with_name(path.name + ".partial")
        try:
            save_file(tensors, partial, metadata=header)
            partial.replace(path)
        except (OSError, SafetensorError) as error:
            raise StateError(f"{path}: the state could not be written ({error})") from error
        finally:
            with suppress(OSError):
                partial.unlink()

    @classmethod
    def load(cls, path: str | Path, model: MakesStates) -> State:
        """Read a state that `save` wrote, for use with `model`.

        Raises:
            StateError: if the file is missing, damaged, no state, or of another model.
        """
        path = Path(path).expanduser()
        header, tensors = _read(path)
        empty = model.new_state()
        for name in ("generation", "identity"):
            found, expected = header.get(name), getattr(empty, name)
            if found != expected:
                raise StateError(
                    f"{path}: this state belongs to another model ({name} {found}), the model at "
                    f"hand has {name} {expected}; load the model that made the state"
                )
        try:
            tokens_seen = tuple(json.loads(header["tokens_seen"]))
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            raise StateError(f"{path}: the header's tokens_seen is damaged") from error
        if not all(type(count) is int and count >= 0 for count in tokens_seen):
            raise StateError(f"{path}: the header's tokens_seen is damaged ({tokens_seen})")

        def checked(layer: int, name: str, like: Tensor) -> Tensor:
            shape = (len(tokens_seen), *like.shape[1:])
            return _checked(path, tensors, f"layers.{layer}.{name}", shape).to(like.device)

        layers = tuple(
            LayerState(
                checked(index, "att_shift", like.att_shift),
                checked(index, "wkv", like.wkv),
                checked(index, "ffn_shift", like.ffn_shift),
            )
            for index, like in enumerate(empty.layers)
        )
        logits = tensors.get("logits")
        if logits is not None:
            shape = (len(tokens_seen), model.config.vocab_size)
            logits = _checked(path, tensors, "logits", shape).to(layers[-1].wkv.device)
        return cls(layers, tokens_seen, empty.generation, empty.identity, logits)

    def _map(self, function: Callable[[Tensor], Tensor]) -> State:
        layers = tuple(layer.map(function) for layer in self.layers)
        return replace(
            self, layers=layers, logits=None if self.logits is None else function(self.logits)
        )


@dataclass(frozen=True)
class StateHeader:
    """What a state file says about itself; `State.load` checks that it is true.

    Attributes:
        generation: of the model, "4" to "7a".
        identity: of the model.
        notes: the texts that were given to `State.save`.
        digest: SHA-256 of the notes and all values.
    """

    generation: str
    identity: str
    notes: Mapping[str, str]
    digest: str


def read_header(path: str | Path) -> StateHeader:
    """What a file that `State.save` wrote says about itself; reads no values.

    Raises:
        StateError: if the file is missing, damaged or no state.
    """
    path = Path(path).expanduser()
    with _opened(path) as (header, _):
        try:
            notes = json.loads(header.get("notes", "{}"))
            if not all(isinstance(text, str) for text in notes.values()):
                raise ValueError("a note is no text")
        except (ValueError, AttributeError, RecursionError) as error:
            raise StateError(f"{path}: the header's notes are damaged ({error})") from error
        told = (header.get(name, "") for name in ("generation", "identity", "digest"))
        generation, identity, digest = told
        return StateHeader(generation, identity, notes, digest)


def _digest(tensors: dict[str, Tensor], notes: str) -> str:
    """SHA-256 of the notes and all values, in the order of the names."""
    digest = hashlib.sha256(notes.encode())
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Header and tensors of a state file."""
    with _opened(path) as (header, handle):
        tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
        if header.get("digest") != _digest(tensors, header.get("notes", "")):
            raise StateError(
                f"{path}: the values are not those that were saved (their digest differs); "
                "the file is damaged, save the state again"
            )
        return header, tensors


@contextmanager
def _opened(path: Path) -> Iterator[tuple[dict[str, str], Any]]:
    """Header and handle of a state file; what goes wrong meanwhile becomes a StateError."""
    from safetensors import SafetensorError, safe_open

    try:
        # Any: the library's type stub does not declare the handle's methods.
        handle: Any
        with safe_open(path, framework="pt") as handle:
            header = handle.metadata() or {}
            if header.get("format") != FORMAT:
                raise StateError(
                    f"{path}: this is not a saved state (format {header.get('format')}, expected "
                    f"{FORMAT}); give a file that state.save wrote"
                )
            yield header, handle
    except FileNotFoundError as error:
        raise StateError(f"{path}: there is no such file; give a saved state") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise StateError(
            f"{path}: the state cannot be read ({error}); it is damaged or no state, save it again"
        ) from error


def _checked(
    path: str | Path, tensors: dict[str, Tensor], name: str, expected: tuple[int, ...]
) -> Tensor:
    """A tensor of a state file, of the expected shape and float32."""
    tensor = tensors.get(name)
    if tensor is None or tuple(tensor.shape) != expected or tensor.dtype != torch.float32:
        what = "is missing" if tensor is None else f"is {tensor.dtype} {tuple(tensor.shape)}"
        raise StateError(
            f"{path}: {name} {what}, expected float32 {expected}; the file is damaged, save the "
            "state again"
        )
    return tensor
