"""The recurrent state of a model, and its file format.

The state is everything that a model remembers about the tokens it has processed. States are
immutable values: `forward` takes a state and returns a new one, and nothing in this package changes
a state in place. The module knows nothing about text. On disk, a state is a safetensors file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from wkv.errors import StateError
from wkv.files import atomic_write
from wkv.models.layer_state import EngineLayers, Layers, LayerState, joined_layers

__all__ = ["EngineLayers", "LayerState", "Layers", "State", "StateHeader", "read_header"]

FORMAT = "wkv-state-1"

BEGINS_WITH = "begins_with"
"""Key in a file's notes: the ids with which a text begins after a tuned state, such as "0"."""

MAX_QUOTED = 60
"""Number of characters of a damaged value that an error message contains."""

MAX_TOKENS_SEEN = 2**53 - 1
"""The largest number of tokens that a state can have seen; JSON numbers are exact up to here."""


class StateFactory(Protocol):
    """The part of a model's interface that reading a state file requires."""

    config: Any

    @property
    def adapters(self) -> Mapping[str, str]:
        """The adapters that a row may use: name to the identity of the model with it."""
        ...

    def new_state(self, batch_size: int = 1) -> State:
        """Return the initial state."""
        ...

    def tuned_state(self, path: Path) -> State | None:
        """Return the tuned state in a file of another program; None if it contains none."""
        ...


@dataclass(frozen=True, slots=True, repr=False)
class State:
    """The state of a model for a batch of rows.

    Attributes:
        layers: one LayerState per layer; some engines store them in their own memory.
        tokens_seen: number of tokens processed by each row.
        generation: generation of the model, "4" to "7a".
        identity: identifies the model that computed the state; only this model can use it. It is
            a SHA-256 (its first 16 hexadecimal digits) of the generation and of the name and only
            the first 16 values of each tensor. Models that differ only in other values therefore
            have the same identity. See `wkv.inference.describe.identity`.
        logits: (B, V) float32, the prediction after the last token, with which generation can
            continue without a prompt; None if no token was processed.
        adapters: for each row, the identity of the model with the adapter that the row uses, or
            "" without one; () if no row uses an adapter. See `wkv.adapters.rows`.
        begins_with: ids with which a text begins after a state that has seen no tokens, as in the
            training of a tuned state; None: those of the model's documents.
    """

    layers: Layers
    tokens_seen: tuple[int, ...]
    generation: str
    identity: str
    logits: Tensor | None = None
    adapters: tuple[str, ...] = ()
    begins_with: tuple[int, ...] | None = None

    def __repr__(self) -> str:
        """Show the generation and the number of tokens of each row, but no tensors."""
        seen = ", ".join(map(str, self.tokens_seen))
        return f"<State of RWKV-{self.generation}, rows that have seen {seen} tokens>"

    @property
    def batch_size(self) -> int:
        """The number of rows."""
        return len(self.tokens_seen)

    @property
    def row_adapters(self) -> tuple[str, ...]:
        """The entry of `adapters` of each row."""
        return self.adapters or ("",) * self.batch_size

    @property
    def device(self) -> torch.device:
        """The device of the first layer's tensors."""
        return self.devices[0]

    @property
    def devices(self) -> list[torch.device]:
        """The device of each layer."""
        if isinstance(self.layers, EngineLayers):
            return [self.layers.device] * len(self.layers)
        return [layer.wkv.device for layer in self.layers]

    @property
    def n_bytes(self) -> int:
        """The size of the layers' tensors in bytes, without the logits."""
        if isinstance(self.layers, EngineLayers):
            return self.layers.n_bytes
        return sum(
            tensor.numel() * tensor.element_size()
            for layer in self.layers
            for tensor in (layer.att_shift, layer.wkv, layer.ffn_shift)
        )

    @property
    def digest(self) -> str:
        """SHA-256 of all values of the layers, and of what a text after the state begins with."""
        facts = (self.tokens_seen, self.adapters, self.begins_with)
        digest = hashlib.sha256(repr(facts).encode())
        for layer in self.layers:
            for tensor in (layer.att_shift, layer.wkv, layer.ffn_shift):
                digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def to(self, devices: Sequence[torch.device]) -> State:
        """Move each layer, and the logits, to a device.

        Args:
            devices: the device of each layer; the last one is that of the logits.

        Returns:
            This state, if all layers and the logits are on these devices already.

        Raises:
            StateError: if PyTorch cannot move a tensor to its device.
        """
        found, wanted = self.devices, list(devices[: len(self.layers)])
        stay = all(map(_is_same, found, wanted))
        if stay and (self.logits is None or _is_same(self.logits.device, devices[-1])):
            return self
        try:
            layers = self.layers
            if not stay:
                layers = tuple(map(LayerState.to, layers, wanted))
            logits = None if self.logits is None else self.logits.to(devices[-1])
        except RuntimeError as error:  # no memory, or a device without values
            raise StateError(
                f"the state is on {self.device} and cannot be moved to {devices[0]} ({error}); "
                "free memory there, or read the text again"
            ) from error
        return replace(self, layers=layers, logits=logits)

    def clone(self) -> State:
        """Return a copy, of tensors, that shares no memory with this state."""
        layers = tuple(layer.map(Tensor.clone) for layer in self.layers)
        return replace(
            self, layers=layers, logits=None if self.logits is None else self.logits.clone()
        )

    def rows(self, indices: Sequence[int]) -> State:
        """Return the selected rows, in the given order, as a new state of len(indices) rows."""
        size = self.batch_size
        if not isinstance(indices, Sequence) or isinstance(indices, str):
            raise StateError(f"rows must be a list of numbers, not {indices!r}")
        for index in indices:
            if not isinstance(index, int) or not -size <= index < size:
                raise StateError(
                    f"row {index!r} does not exist: the state has {size} rows, "
                    f"numbered 0 to {size - 1}"
                )
        numbers = torch.tensor([index % size for index in indices], dtype=torch.long)
        devices = set(self.devices)
        devices |= set() if self.logits is None else {self.logits.device}
        wanted = {device: numbers.to(device) for device in devices}  # one copy for each device

        def select(tensor: Tensor) -> Tensor:
            return tensor.index_select(0, wanted[tensor.device])

        used = tuple(self.row_adapters[i] for i in indices)
        return replace(
            self,
            layers=self.layers.rows([index % size for index in indices])
            if isinstance(self.layers, EngineLayers)
            else tuple(layer.map(select) for layer in self.layers),
            tokens_seen=tuple(self.tokens_seen[i] for i in indices),
            logits=None if self.logits is None else select(self.logits),
            adapters=used if any(used) else (),
        )

    @staticmethod
    def stack(states: Sequence[State]) -> State:
        """Join states of the same model into one batch, row after row."""
        states = list(states)
        if not states or not all(isinstance(state, State) for state in states):
            raise StateError("stack needs a list of at least one wkv.State")
        first = states[0]
        for state in states[1:]:
            if state.identity != first.identity:
                raise StateError("states of different models cannot share a batch")
            if state.device != first.device:
                raise StateError("states on different devices cannot share a batch")
        layers = joined_layers([state.layers for state in states])
        tokens_seen = tuple(count for state in states for count in state.tokens_seen)
        present = [state.logits for state in states if state.logits is not None]
        logits = torch.cat(present) if len(present) == len(states) else None
        adapters = tuple(name for state in states for name in state.row_adapters)
        return replace(
            first,
            layers=layers,
            tokens_seen=tokens_seen,
            logits=logits,
            adapters=adapters if any(adapters) else (),
            begins_with=next(
                (one.begins_with for one in states if one.begins_with is not None), None
            ),
        )

    def save(self, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
        """Write the state to a safetensors file atomically.

        The header contains the format, the model's identity and generation, the shapes and dtype,
        the number of tokens seen, and the caller's `metadata` (under the key "notes"), which
        `read_header` returns.

        Raises:
            StateError: if the file cannot be written, or the rows use different adapters.
        """
        from safetensors.torch import save_file

        tensors = {
            f"layers.{index}.{name}": getattr(layer, name).detach().cpu().contiguous()
            for index, layer in enumerate(self.layers)
            for name in ("att_shift", "wkv", "ffn_shift")
        }
        if self.logits is not None:
            tensors["logits"] = self.logits.detach().cpu().contiguous()
        used = set(self.row_adapters)
        if len(used) > 1:
            raise StateError(
                f"{path}: the rows use {len(used)} different adapters; save them one by one, with "
                "state.rows"
            )
        if self.begins_with is not None:
            begins_with = " ".join(map(str, self.begins_with))
            metadata = {**(metadata or {}), BEGINS_WITH: begins_with}
        header = {
            "format": FORMAT,
            "generation": self.generation,
            "identity": used.pop() or self.identity,
            "shapes": json.dumps({name: list(tensor.shape) for name, tensor in tensors.items()}),
            "dtype": "float32",
            "tokens_seen": json.dumps(list(self.tokens_seen)),
        }
        if metadata:
            header["notes"] = json.dumps(dict(metadata))
        header["digest"] = _digest(tensors, header.get("notes", ""))
        atomic_write(
            Path(path).expanduser(),
            lambda file: save_file(tensors, file, metadata=header),
            error_type=StateError,
        )

    @classmethod
    def load(cls, path: str | Path, model: StateFactory) -> State:
        """Read a state file that `save` wrote, or a tuned state, for use with `model`.

        Tuned states of RWKV-PEFT, RWKV-Runner, web-rwkv, ai00 and rwkv-metal are read too. They
        contain no identity, so only their sizes can be compared with the model.

        Raises:
            StateError: if the file is missing, damaged, not a state, or of another model, or has
                values that are NaN, infinite, or not float32.
        """
        path = Path(path).expanduser()
        try:
            header, tensors = _read(path)
        except StateError:
            tuned = model.tuned_state(path)
            if tuned is None:
                raise
            return tuned
        empty = model.new_state()
        adapter = (
            header.get("identity") if header.get("identity") in model.adapters.values() else ""
        )
        for name in ("generation", "identity"):
            found, expected = header.get(name), getattr(empty, name)
            if found != expected and not (adapter and name == "identity"):
                raise StateError(
                    f"{path}: this state belongs to another model ({name} "
                    f"{str(found)[:MAX_QUOTED]}), expected {name} {expected}; load the model that "
                    "made the state"
                )
        tokens_seen = _tokens_seen(path, header)

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
        rows = (adapter,) * len(tokens_seen) if adapter else ()
        first = _begins_with(path, header)
        return cls(layers, tokens_seen, empty.generation, empty.identity, logits, rows, first)


def _is_same(found: torch.device, device: torch.device) -> bool:
    """Check whether a device is the wanted one; one without a number is any of its kind."""
    return found.type == device.type and device.index in (None, found.index)


@dataclass(frozen=True)
class StateHeader:
    """The header of a state file. `State.load` checks its digest, `read_header` does not.

    Attributes:
        generation: generation of the model, "4" to "7a".
        identity: identity of the model, see `State`.
        metadata: the metadata that was passed to `State.save`.
        digest: SHA-256 of the metadata and all values of the state.
    """

    generation: str
    identity: str
    metadata: Mapping[str, str]
    digest: str


def read_header(path: str | Path) -> StateHeader:
    """Read the header of a state file without reading its tensors.

    Raises:
        StateError: if the file is missing, damaged or not a state.
    """
    path = Path(path).expanduser()
    with _opened(path) as (header, _):
        try:
            metadata = json.loads(header.get("notes", "{}"))
            if not all(isinstance(value, str) for value in metadata.values()):
                raise ValueError("a value is not a string")
        except (ValueError, AttributeError, RecursionError) as error:
            raise StateError(
                f"{path}: the header's metadata is damaged ({error}); save the state again"
            ) from error
        generation, identity, digest = (
            header.get(name, "") for name in ("generation", "identity", "digest")
        )
        return StateHeader(generation, identity, metadata, digest)


def read_layers(path: str | Path) -> tuple[LayerState, ...]:
    """Read the layers of a state file, of whatever model it is.

    Raises:
        StateError: if the file is missing, damaged or not a state, or has values that are NaN,
            infinite, or not float32.
    """
    path = Path(path).expanduser()
    header, tensors = _read(path)
    rows = len(_tokens_seen(path, header))

    def checked(layer: int, name: str) -> Tensor:
        name = f"layers.{layer}.{name}"
        found = tensors.get(name)
        shape = (rows, *found.shape[1:]) if found is not None else (rows,)
        return _checked(path, tensors, name, shape)

    count = sum(name.endswith(".wkv") for name in tensors)
    parts = ("att_shift", "wkv", "ffn_shift")
    return tuple(LayerState(*(checked(layer, part) for part in parts)) for layer in range(count))


def _digest(tensors: dict[str, Tensor], metadata: str) -> str:
    """Return the SHA-256 of the metadata and of all names and values, ordered by name."""
    digest = hashlib.sha256(metadata.encode())
    for name in sorted(tensors):
        # As bytes, because NumPy does not know all dtypes.
        values = tensors[name].reshape(-1).view(torch.uint8)
        digest.update(name.encode() + values.numpy().tobytes())
    return digest.hexdigest()


def _begins_with(path: Path, header: Mapping[str, str]) -> tuple[int, ...] | None:
    """Return the ids with which a text begins after a state, or None if the file has none."""
    try:
        text = json.loads(header.get("notes", "{}")).get(BEGINS_WITH)
        return None if text is None else tuple(int(word) for word in text.split())
    except (ValueError, AttributeError, RecursionError) as error:
        raise StateError(
            f"{path}: the note {BEGINS_WITH} is damaged ({error}), expected token ids; save the "
            "state again"
        ) from error


def _tokens_seen(path: Path, header: Mapping[str, str]) -> tuple[int, ...]:
    """Return the number of tokens of each row that a header contains."""
    text = header.get("tokens_seen", "nothing")
    try:
        counts = json.loads(text)
    except (ValueError, RecursionError):
        counts = None
    if isinstance(counts, list) and all(
        type(count) is int and 0 <= count <= MAX_TOKENS_SEEN for count in counts
    ):
        return tuple(counts)
    raise StateError(
        f"{path}: the header's tokens_seen is damaged: found {text[:MAX_QUOTED]}, expected a list "
        f"of whole numbers from 0 to {MAX_TOKENS_SEEN}; save the state again"
    )


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read the header and the tensors of a state file, and check the digest."""
    with _opened(path) as (header, handle):
        tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
        if header.get("digest") != _digest(tensors, header.get("notes", "")):
            raise StateError(
                f"{path}: the values are not those that were saved (the digest differs); the file "
                "is damaged, save the state again"
            )
        return header, tensors


@contextmanager
def _opened(path: Path) -> Iterator[tuple[dict[str, str], Any]]:
    """Open a state file, yield its header and handle, and convert errors to StateError."""
    from safetensors import SafetensorError, safe_open

    try:
        # Any: the library's type stub does not declare the handle's methods.
        handle: Any
        with safe_open(path, framework="pt") as handle:
            header = handle.metadata() or {}
            if header.get("format") != FORMAT:
                raise StateError(
                    f"{path}: this is not a saved state (format "
                    f"{str(header.get('format'))[:MAX_QUOTED]}, expected {FORMAT}); give a file "
                    "that state.save wrote"
                )
            yield header, handle
    except FileNotFoundError as error:
        raise StateError(f"{path}: there is no such file; give a saved state") from error
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise StateError(
            f"{path}: the file cannot be read as a state ({error}); save the state again"
        ) from error


def _checked(
    path: str | Path, tensors: dict[str, Tensor], name: str, expected: tuple[int, ...]
) -> Tensor:
    """Return a tensor of a state file, after checking its dtype, shape and values."""
    tensor = tensors.get(name)
    if tensor is None or tuple(tensor.shape) != expected or tensor.dtype != torch.float32:
        found = "is missing" if tensor is None else f"is {tensor.dtype} {tuple(tensor.shape)}"
        raise StateError(
            f"{path}: {name} {found}, expected float32 {expected}; the file is damaged, save the "
            "state again"
        )
    if not bool(tensor.isfinite().all()):
        raise StateError(
            f"{path}: {name} contains NaN or infinite values, with which nothing can be predicted; "
            "use a state that was saved earlier"
        )
    return tensor
