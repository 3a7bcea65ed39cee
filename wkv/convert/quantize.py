"""Writes a checkpoint with its matrices packed to int8 or int4, which loads at once.

The file holds every matrix except the embedding in the form that the native engine reads, so
loading neither packs nor copies; `wkv.checkpoint.layouts.packed` describes the file. Everything
else is stored as in the source. The embedding stays as it is because a token reads only one row of
it. The logits equal those of packing the source at every load, bit for bit.

The new file appears after it was read again and compared with what is in memory, and after the
caller has seen both models and agreed; or not at all.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wkv.checkpoint import Checkpoint
from wkv.checkpoint.atomic_write import unfinished, writing
from wkv.checkpoint.layouts.packed import NOTE, note_of
from wkv.checkpoint.packing import Packed, format_for, layout_for, pack
from wkv.convert.checkpoint_file import (
    both_logits,
    check_vocabulary,
    mapped_strategy,
    new_file,
    write_vocabulary_beside,
)
from wkv.errors import CheckpointError, InputError
from wkv.inference.load import (
    Description,
    build_model,
    describe,
    identity,
    native_refusal,
    strategy_for,
)
from wkv.inference.model import Model
from wkv.inference.torch_weights import is_packable
from wkv.strategy import Strategy
from wkv.strategy.language import PACKED
from wkv.tokenizers import Tokenizer, open_tokenizer

ALIGNMENT = 64
"""Bytes at whose multiples packed matrices begin in the file: a line of a processor's cache."""

SPARSE_INPUTS = "ffn.value.weight"
"""How the names end of matrices that read a squared ReLU, of which most is zero."""

DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16",
    torch.uint8: "U8",
}  # fmt: skip


@dataclass(frozen=True)
class Quantization:
    """What was made.

    Attributes:
        path: the new file.
        n_bytes: its size.
        strategy: the one it was made for.
        kept: whether the file is there now.
    """

    path: Path
    n_bytes: int
    strategy: str
    kept: bool


class PackedMatrices:
    """The matrices of a checkpoint, each packed when it is first asked for.

    Attributes:
        names: of all of them, in the order of the network; a stack of factors has one for each.
        replaced: names of the tensors of the source that they are.
    """

    def __init__(self, description: Description, to: str) -> None:
        self._checkpoint, self._to = description.checkpoint, to
        self._made: dict[str, Packed] = {}
        self._sources: dict[str, Callable[[], Tensor]] = {}
        self.replaced: set[str] = set()
        for name, tensor in description.network.state_dict().items():
            if is_packable(name, tensor.shape):
                self._add(name, tuple(tensor.shape))
                self.replaced.add(name)
        self.names = tuple(self._sources)

    def __call__(self, name: str) -> Packed | None:
        """A packed matrix; None for what is none."""
        if name not in self._made and name in self._sources:
            format = format_for(name, self._to, torch.float32)
            layout = layout_for(format, sparse_inputs=name.endswith(SPARSE_INPUTS))
            self._made[name] = pack(self._sources[name](), format, layout)
        return self._made.get(name)

    def _add(self, name: str, shape: tuple[int, ...]) -> None:
        read = self._checkpoint
        if name.endswith(".weight"):
            self._sources[name] = lambda: read[name].reshape(shape)
        elif len(shape) == 2:
            self._sources[name] = lambda: read[name].reshape(shape).t()
        else:
            for n in range(shape[0]):
                part = lambda n=n: read[name].reshape(shape)[n].t()  # noqa: E731
                self._sources[f"{name}.{n}"] = part


def quantize(
    source: str | Path,
    destination: str | Path,
    *,
    to: str,
    overwrite: bool = False,
    tokenizer: str | Path | Tokenizer | None = None,
    accept: Callable[[Model, Model, Path], bool] = lambda before, after, file: True,
    on_packed: Callable[[int, int], object] = lambda done, total: None,
) -> Quantization:
    """Write a checkpoint as `.safetensors` with its matrices packed.

    Args:
        source: any checkpoint that `wkv.load` reads, with matrices of floats.
        destination: the file to write; `.safetensors` is added if it is missing.
        to: "int8" or "int4".
        overwrite: whether a file that exists may be replaced.
        tokenizer: of the models that `accept` is given, as for `wkv.load`.
        accept: is given the model as it was, the quantized one and its unfinished file; if it
            answers False nothing is kept.
        on_packed: told how many matrices of how many are packed.

    Raises:
        CheckpointError: if the source cannot be read or is quantized, or the new file differs
            from what is in memory.
        InputError: for another `to`, or a destination that exists.
    """
    if to not in PACKED:
        raise InputError(f"a checkpoint is quantized to {' or '.join(PACKED)}, not to {to!r}")
    description = describe(source)
    _check_source(description)
    path = new_file(destination, ".safetensors", description.checkpoint, overwrite=overwrite)
    check_vocabulary(path, description.checkpoint.path, overwrite=overwrite)
    named = None
    if tokenizer is not None:
        named = open_tokenizer(tokenizer, description.config.vocab_size)
    strategy = strategy_for(description, f"cpu {to}")
    before = build_model(describe(source), _strategy_before(description), named)
    matrices = PackedMatrices(description, to)
    with unfinished(path) as folder:
        made = folder / path.name
        for done, name in enumerate(matrices.names, start=1):
            matrices(name)
            on_packed(done, len(matrices.names))
        with writing(path):
            _write(made, description, matrices, str(strategy))
            write_vocabulary_beside(made, description.checkpoint.path)
        in_memory = replace(
            description, checkpoint=replace(description.checkpoint, packed=matrices)
        )
        after = _proved(made, matrices, build_model(in_memory, strategy), named)
        n_bytes = made.stat().st_size
        kept = accept(before, after, made)
        del after  # the file is mapped, and some systems move no file that is
        if kept:
            with writing(path):
                made.replace(path)
                write_vocabulary_beside(path, description.checkpoint.path)
    return Quantization(path, n_bytes, str(strategy), kept)


def _check_source(description: Description) -> None:
    """Raise for a source whose matrices are integers already."""
    checkpoint = description.checkpoint
    if checkpoint.is_packed:
        raise CheckpointError(
            f"{checkpoint.path}: the file is quantized already, for {checkpoint.strategy!r}, and "
            "again would lose more; give the original"
        )
    if description.scales:
        raise CheckpointError(
            f"{checkpoint.path}: the file has ChatRWKV's int8 matrices, and quantized again would "
            "lose more; give the original"
        )


def _strategy_before(description: Description) -> Strategy:
    """How the model runs here without being quantized: as `auto` has it, but on the CPU."""
    chosen = strategy_for(description, "auto", check=False)
    if any(layer.device.type != "cpu" for layer in chosen.layers):
        chosen = mapped_strategy(description)
    return chosen if native_refusal(description, chosen) is None else chosen.for_torch()


def _write(path: Path, description: Description, matrices: PackedMatrices, strategy: str) -> None:
    """Write the file: packed matrices first, those of whole lines of the cache before others."""
    checkpoint = description.checkpoint
    packed = {name: made for name in matrices.names if (made := matrices(name)) is not None}
    ordered = sorted(packed, key=lambda name: packed[name].data.nbytes % ALIGNMENT != 0)
    tensors = {name: packed[name].data for name in ordered}
    others = {*description.network.state_dict(), *description.tuned} - matrices.replaced
    rest = {name: checkpoint[name].contiguous() for name in checkpoint if name in others}
    tensors |= dict(sorted(rest.items(), key=lambda pair: -pair[1].dtype.itemsize))
    notes = {
        "format": "pt",
        "_wkv_strategy": strategy,
        NOTE: note_of(packed, identity(description)),
    }
    write_safetensors(path, tensors, notes)


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> None:
    """Write tensors in the order given; the first begins at a multiple of ALIGNMENT bytes.

    The library's own `save_file` orders them by dtype and name, and pads to 8 bytes.
    """
    header: dict[str, Any] = {"__metadata__": dict(notes)}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


def _proved(
    path: Path, matrices: PackedMatrices, expected: Model, tokenizer: Tokenizer | None
) -> Model:
    """The model of the new file, which equals the one in memory.

    Raises:
        CheckpointError: if a packed matrix or a logit differs.
    """
    again = describe(path)
    wrong = [name for name in matrices.names if not _same(matrices(name), again.checkpoint, name)]
    if wrong:
        raise CheckpointError(
            f"{path.name}: {len(wrong)} matrices of the new file differ from what was written, the "
            f"first is {wrong[0]}; it was not kept. Is the disk sound?"
        )
    after = build_model(again, strategy_for(again, "auto"), tokenizer)
    for logits, others in both_logits(expected, after):
        if not torch.equal(logits.nan_to_num(), others.nan_to_num()):
            by = float((logits - others).abs().max())
            raise CheckpointError(
                f"{path.name}: the logits of the new file differ by {by:g} from those of the "
                "matrices in memory; it was not kept, please report this"
            )
    return after


def _same(made: Packed | None, checkpoint: Checkpoint, name: str) -> bool:
    """Whether a packed matrix is in a file, byte for byte."""
    found = checkpoint.packed(name)
    if made is None or found is None:
        return False
    kinds = [(one.format, one.layout, one.outputs, one.inputs) for one in (made, found)]
    return kinds[0] == kinds[1] and torch.equal(made.data, found.data)
