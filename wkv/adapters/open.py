"""Open an adapter: find its format by names and configuration, and account for every tensor.

The formats, with MODULE for the name of a matrix without `.weight`:

RWKV-PEFT, RWKV-LM-LoRA   .pth: MODULE.lora_A (r, in), .lora_B (out, r), .disha or .bone
                          (r, out) or (n, r, r), and whole tensors
peft, RWKV-PEFT 2026      folder: MODULE.lora_A.weight, .lora_B.weight,
                          .lora_magnitude_vector, .lora_embedding_A, .miss_block
rwkvtune                  folder: MODULE.lora_A, .lora_B in adapter_model.bin
web-rwkv, ai00            safetensors: MODULE.lora.0 (in, r), .lora.1 (out, r)
llama.cpp                 GGUF: MODULE.weight.lora_a (r, in), .lora_b (out, r)
mlx-lm                    folder: MODULE.lora_a (in, r), .lora_b (r, out), .m
"""

import hashlib
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from wkv.adapters.changes import Bat, Change, LowRank, Miss, Replaced
from wkv.adapters.names import WRAPPERS, AnyModel, Target, find_target
from wkv.adapters.scaling import Scaling, read_scaling, with_alpha
from wkv.adapters.values import float_values
from wkv.checkpoint import open_checkpoint
from wkv.errors import CheckpointError, MissingExtraError, install_command

IN_FOLDERS = ("adapter_model.safetensors", "adapter_model.bin", "adapters.safetensors")
"""The files of weights in folders of peft, rwkvtune and mlx-lm."""

PART = re.compile(
    r"(?P<module>.+?)(\.weight)?\.(?:"
    r"(?P<kind>lora_(embedding_)?[ABab]|lora_magnitude_vector|miss_block|bone_block|disha|bone)"
    r"(\.(?!bias\b)\w+)*|(?P<web>lora\.[01])|(?P<mlx>m))"
)
"""The module that a tensor changes, and the part of the change that it is."""

PAIRS = {
    "lora_A": "lora_B", "lora_embedding_A": "lora_embedding_B", "lora_a": "lora_b",
    "lora.0": "lora.1",
}  # fmt: skip

GGUF_FIELDS = ("general.type", "general.architecture", "adapter.type", "adapter.lora.alpha")

FLA_NAME = re.compile(r"model\.layers\.\d+\.(attn|ffn)\.")
"""The beginning of names in exports of RWKV-6 and 7."""

BLOCKS = ("miss_block", "bone_block", "disha", "bone")
"""The names of MiSS in its versions."""


@dataclass(frozen=True)
class Adapter:
    """An adapter for a base model.

    Attributes:
        path: the file of its weights.
        changes: official tensor name to change.
        digest: SHA-256 of all changes.
        generations: the first digits of the generations that the file can be for, by its names or
            its header; () if they do not say.
    """

    path: Path
    changes: Mapping[str, Change]
    digest: str
    generations: tuple[str, ...] = ()


def is_adapter(path: str | Path) -> bool:
    """Check whether a file or folder is an adapter, by its names; unreadable ones are not."""
    path = Path(path).expanduser()
    file = next((path / name for name in IN_FOLDERS if (path / name).is_file()), path)
    try:
        if file.is_file() and file.read_bytes()[:4] == b"GGUF":
            return bool(_read_gguf(file, None))
        names = list(open_checkpoint(file))
    except (CheckpointError, OSError):
        return False
    return "emb.weight" not in names and any(PART.fullmatch(name) for name in names)


def open_adapter(
    path: str | Path, shapes: Mapping[str, tuple[int, ...]] | None, alpha: float | None = None
) -> Adapter:
    """Open an adapter in any of the formats that this module lists.

    Args:
        path: a file, or a folder of peft, rwkvtune or mlx-lm.
        shapes: official name to shape of the base model's tensors; None: the base model is
            unknown, so that only names can be checked.
        alpha: the alpha of the training, for files that do not contain it.

    Raises:
        CheckpointError: if it cannot be read, was trained for another model, contains tensors
            that are not part of an adapter, lacks half of a pair, or alpha is missing.
        MissingExtraError: if the file is GGUF, and the gguf package is not installed.
    """
    tensors, scaling = _read(Path(path).expanduser(), alpha)
    known: Container[str] = AnyModel() if shapes is None else shapes
    parts: dict[str, dict[str, Tensor]] = {}
    changes: dict[str, Change] = {}
    for name, tensor in tensors.items():
        match = PART.fullmatch(name)
        if match is None or (match["mlx"] and not scaling.is_mlx):
            target = _target(scaling.path, name, name, known)
            value = target.conversion.transform(tensor)
            _add(scaling.path, changes, target, name, Replaced(value), shapes)
            continue
        kind = match["kind"] or match["web"] or match["mlx"]
        module = WRAPPERS.sub("", match["module"])
        if kind in parts.setdefault(module, {}):
            raise CheckpointError(
                f"{scaling.path}: {name} is the second {kind} of {module}; save one adapter alone"
            )
        parts[module][kind] = tensor
    for module, found in parts.items():
        target = _target(scaling.path, f"{module}.weight", module, known)
        change = _change(scaling, module, found, is_transposed=target.is_transposed)
        _add(scaling.path, changes, target, module, change, shapes)
    if not parts:
        raise CheckpointError(
            f"{scaling.path}: this is not an adapter: it has no factors such as lora_A; expected "
            "a file or folder of RWKV-PEFT, peft, rwkvtune, web-rwkv, llama.cpp or mlx-lm"
        )
    generations = scaling.generations
    if not generations and any(FLA_NAME.match(WRAPPERS.sub("", name)) for name in tensors):
        generations = ("6", "7")
    return Adapter(scaling.path, changes, _digest(changes), generations)


def _read(path: Path, alpha: float | None) -> tuple[dict[str, Tensor], Scaling]:
    """Read all tensors of an adapter in float32, and its scaling."""
    file = next((path / name for name in IN_FOLDERS if (path / name).is_file()), path)
    if file.is_file():
        with file.open("rb") as content:
            if content.read(4) == b"GGUF":
                return _read_gguf(file, alpha)
    opened = open_checkpoint(file)
    if "emb.weight" in opened and not any(PART.fullmatch(name) for name in opened):
        raise CheckpointError(f"{file}: this is a model, expected an adapter for one")
    values = {name: float_values(file, name, opened[name], CheckpointError) for name in opened}
    return values, read_scaling(opened.path, alpha)


def _read_gguf(file: Path, alpha: float | None) -> tuple[dict[str, Tensor], Scaling]:
    """Read an adapter of llama.cpp; alpha 0 means that the factor is 1."""
    if find_spec("gguf") is None:
        raise MissingExtraError(
            f"{file}: reading GGUF files requires the gguf package, which is not installed; run: "
            f"{install_command('gguf')}"
        )
    from gguf import GGUFReader
    from gguf.quants import dequantize

    try:
        reader = GGUFReader(file)
        fields = {
            key: field.contents()
            for key in GGUF_FIELDS
            if (field := reader.get_field(key)) is not None
        }
        tensors = {
            one.name: torch.tensor(dequantize(one.data, one.tensor_type)) for one in reader.tensors
        }
    except (ValueError, IndexError, KeyError, OSError, NotImplementedError) as error:
        raise CheckpointError(
            f"{file}: the GGUF file is damaged ({error}); fetch it again"
        ) from error
    if fields.get("general.type") != "adapter" or fields.get("adapter.type") != "lora":
        raise CheckpointError(f"{file}: this GGUF file is not a LoRA adapter, but a model")
    stored = float(fields.get("adapter.lora.alpha", 0))
    scaling = Scaling(file, alpha=stored) if stored else Scaling(file, factor=1.0)
    architecture = str(fields.get("general.architecture", ""))
    if architecture.startswith("rwkv"):
        scaling = replace(scaling, generations=(architecture.removeprefix("rwkv")[:1],))
    values = {name: float_values(file, name, one, CheckpointError) for name, one in tensors.items()}
    return values, with_alpha(scaling, alpha)


def _target(path: Path, name: str, shown: str, known: Container[str]) -> Target:
    """Return the tensor of the base model that a name means."""
    target = find_target(name, known)
    if target is None:
        raise CheckpointError(
            f"{path}: {shown} is neither part of a known adapter nor a tensor of the base model; "
            "give the base model that the adapter was trained for"
        )
    return target


def _change(
    scaling: Scaling, module: str, found: dict[str, Tensor], *, is_transposed: bool
) -> Change:
    """Return the change that the parts of one module describe."""
    parts = dict(found)
    block = next((kind for kind in BLOCKS if kind in parts), None)
    if block is not None:
        change = _block_change(scaling.path, module, block, parts.pop(block))
        if is_transposed:
            raise _wrong(scaling.path, module, f"{block}, which does not fit low-rank factors")
    else:
        change = _low_rank(scaling, module, parts, is_transposed=is_transposed)
    if parts:
        raise _wrong(scaling.path, module, f"{next(iter(parts))} without the rest of its change")
    return change


def _block_change(path: Path, module: str, kind: str, D: Tensor) -> Change:
    """Return the change of a MiSS or Bat block; their number of axes tells them apart."""
    if D.dim() == 2 and min(D.shape) > 0:
        return Miss(D)
    if D.dim() == 3 and D.shape[1] == D.shape[2] > 0:
        return Bat(D, of_inputs=kind in ("disha", "bone"))
    raise _wrong(path, module, f"{kind} of shape {tuple(D.shape)}, expected (r, out) or (n, r, r)")


def _low_rank(
    scaling: Scaling, module: str, parts: dict[str, Tensor], *, is_transposed: bool
) -> LowRank:
    """Return the change of a pair of factors, which are removed from `parts`."""
    first = next((kind for kind in PAIRS if kind in parts or PAIRS[kind] in parts), "lora_A")
    for kind in (first, PAIRS[first]):
        if kind not in parts:
            raise _wrong(scaling.path, module, f"no {kind}, the other half of its pair")
    A, B = parts.pop(first), parts.pop(PAIRS[first])
    if A.dim() != 2 or B.dim() != 2:
        raise _wrong(scaling.path, module, f"factors {tuple(A.shape)} and {tuple(B.shape)}")
    if first == "lora.0" or scaling.is_mlx:
        A = A.t()
    if scaling.is_mlx:
        B = B.t()
    if A.shape[0] != B.shape[1] or not A.shape[0]:
        raise _wrong(scaling.path, module, f"factors of the ranks {A.shape[0]} and {B.shape[1]}")
    scale = scaling.of(module, A.shape[0])
    magnitude = parts.pop("lora_magnitude_vector", parts.pop("m", None))
    if first == "lora_embedding_A":
        is_transposed = not is_transposed
    if is_transposed:
        if magnitude is not None:
            raise _wrong(scaling.path, module, "a DoRA magnitude, which needs a whole matrix")
        A, B = B.t(), A.t()
    norms = None if magnitude is None else magnitude.flatten()
    return LowRank(A.contiguous(), B.contiguous(), scale, norms)


def _wrong(path: Path, module: str, found: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: the change of {module} has {found}; the adapter is incomplete or damaged, save "
        "it again"
    )


def _add(
    path: Path,
    changes: dict[str, Change],
    target: Target,
    shown: str,
    change: Change,
    shapes: Mapping[str, tuple[int, ...]] | None,
) -> None:
    """Add a change, after checking that it fits the tensor and is the only one."""
    shape = None if shapes is None else shapes[target.name]
    if shape is not None and not change.fits(shape):
        raise CheckpointError(
            f"{path}: {shown} is for a tensor of {change.describe()}, and {target.name} of the "
            f"model is {shape}; give the base model that the adapter was trained for"
        )
    if target.name in changes:
        raise CheckpointError(f"{path}: {target.name} is changed twice; save one adapter alone")
    changes[target.name] = change


def _digest(changes: Mapping[str, Change]) -> str:
    digest = hashlib.sha256()
    for name in sorted(changes):
        digest.update(f"{name} {type(changes[name]).__name__}".encode())
        for tensor in changes[name].tensors():
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
