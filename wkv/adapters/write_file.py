"""Write an adapter as one file for RWKV-PEFT, for web-rwkv and ai00, or for llama.cpp.

    pth-lora    .pth: MODULE.lora_A (r, in), .lora_B (out, r) in float32; MODULE.disha (r, out);
                whole tensors under their own names
    ai00-lora   safetensors: MODULE.lora.0 (in, r), .lora.1 (out, r) in half precision; whole
                tensors under their own names
    gguf-lora   GGUF: blk.N.time_mix_* and channel_mix_* .weight.lora_a (r, in), .lora_b (out, r)
                in float32, and alpha

Only GGUF files contain alpha. The others have one alpha for all matrices, which the reader has to
know. Factors with another scale are multiplied so that this alpha is right for them.
"""

import re
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from wkv.adapters.changes import Bat, Change, LowRank, Miss, Replaced
from wkv.adapters.names import LLAMA
from wkv.errors import CheckpointError, MissingExtraError, install_command
from wkv.files import atomic_write

ENDINGS = {"pth-lora": (".pth",), "ai00-lora": (".st", ".safetensors"), "gguf-lora": (".gguf",)}
"""The extensions of the formats; a path without one gets the first."""

MATRICES = re.compile(r"blocks\.\d+\.(att|ffn)\.(receptance|key|value|gate|output)\.weight")
"""The matrices that web-rwkv can change by factors; of others, it knows only whole tensors."""

LLAMA_MATRICES = re.compile(rf"{MATRICES.pattern}|head\.weight")
"""The matrices to which llama.cpp applies an adapter; it loads others and ignores them."""

LLAMA_GENERATIONS = ("6", "7")

Tensors = dict[str, Tensor]


def common_alpha(changes: Mapping[str, Change]) -> float | None:
    """Return the alpha that a file without alpha is to be used with; None without factors."""
    pairs = [change for change in changes.values() if isinstance(change, LowRank) and change.scale]
    return pairs[0].scale * len(pairs[0].A) if pairs else None


def write_adapter(path: Path, changes: Mapping[str, Change], to: str, generation: str) -> None:
    """Write all changes of an adapter to a file.

    Args:
        path: the file to create or replace.
        changes: official tensor name to change.
        to: the format, one of `ENDINGS`.
        generation: the generation of the base model, which GGUF files name.

    Raises:
        CheckpointError: if the format has no form for a change, half precision cannot represent a
            value, or the file cannot be written.
        MissingExtraError: if the format is GGUF, and the gguf package is not installed.
    """
    alpha = common_alpha(changes)
    if to == "gguf-lora":
        _write_gguf(path, _tensors(changes, alpha, _llama), alpha or 0.0, generation)
        return
    if to == "pth-lora":
        tensors = _tensors(changes, alpha, _rwkv_peft)
        atomic_write(path, lambda file: torch.save(tensors, file))
        return
    from safetensors.torch import save_file

    halves = {name: one.half().contiguous() for name, one in _tensors(changes, alpha, _web).items()}
    for name, half in halves.items():
        if not bool(half.isfinite().all()):
            raise CheckpointError(
                f"{name} has values beyond {torch.finfo(torch.float16).max:g}, the largest number "
                "of half precision; write the adapter as pth-lora or peft"
            )
    atomic_write(path, lambda file: save_file(halves, file))


def _tensors(
    changes: Mapping[str, Change],
    alpha: float | None,
    form: Callable[[str, Change], Tensors | None],
) -> Tensors:
    """Return the tensors of all changes in a form, with one alpha for all factors.

    Raises:
        CheckpointError: if the form returns None for a change.
    """
    tensors: Tensors = {}
    for name, change in changes.items():
        parts = form(name, _with_alpha(change, alpha))
        if parts is None:
            raise CheckpointError(
                f"the format has no form for the change of {name} ({_method(change)}); write the "
                "adapter as peft, or merge it with wkv merge"
            )
        tensors |= {key: one.detach().cpu().float().contiguous() for key, one in parts.items()}
    return tensors


def _method(change: Change) -> str:
    """Return the name of the method of a change, for error messages."""
    if isinstance(change, LowRank):
        return "LoRA" if change.magnitude is None else "DoRA"
    return {Miss: "MiSS", Bat: "Bat", Replaced: "a whole tensor"}.get(type(change), "unknown")


def _with_alpha(change: Change, alpha: float | None) -> Change:
    """Return a change whose scale is alpha / r, which is the same as before in effect."""
    if not isinstance(change, LowRank) or alpha is None:
        return change
    scale = alpha / len(change.A)
    if scale == change.scale:
        return change
    return LowRank(change.A, change.B * (change.scale / scale), scale, change.magnitude)


def _factors(name: str, change: Change) -> LowRank | None:
    """Return the change as plain factors of a matrix, or None if it has no such form."""
    is_plain = isinstance(change, LowRank) and change.magnitude is None
    return change if is_plain and name.endswith(".weight") else None  # type: ignore[return-value]


def _rwkv_peft(name: str, change: Change) -> Tensors | None:
    module = name.removesuffix(".weight")
    if (pair := _factors(name, change)) is not None:
        return {f"{module}.lora_A": pair.A, f"{module}.lora_B": pair.B}
    if isinstance(change, Miss) or (isinstance(change, Bat) and change.of_inputs):
        return {f"{module}.disha": change.D}
    return {name: change.value} if isinstance(change, Replaced) else None


def _web(name: str, change: Change) -> Tensors | None:
    module = name.removesuffix(".weight")
    if (pair := _factors(name, change)) is not None and MATRICES.fullmatch(name):
        return {f"{module}.lora.0": pair.A.t(), f"{module}.lora.1": pair.B}
    return {name: change.value} if isinstance(change, Replaced) else None


def _llama(name: str, change: Change) -> Tensors | None:
    if (pair := _factors(name, change)) is None or not LLAMA_MATRICES.fullmatch(name):
        return None
    found = next(one for rule in LLAMA if (one := rule.to_foreign(name)) is not None)
    return {f"{found}.lora_a": pair.A, f"{found}.lora_b": pair.B}


def _write_gguf(path: Path, tensors: Tensors, alpha: float, generation: str) -> None:
    """Write an adapter of llama.cpp."""
    if generation not in LLAMA_GENERATIONS:
        raise CheckpointError(
            f"the adapter is for RWKV-{generation}, and llama.cpp supports RWKV-6 and 7 only; "
            "write it in another format"
        )
    if find_spec("gguf") is None:
        raise MissingExtraError(
            f"{path}: writing GGUF files requires the gguf package, which is not installed; run: "
            f"{install_command('gguf')}"
        )
    from gguf import GGUFWriter

    def write(file: Path) -> None:
        writer = GGUFWriter(file, f"rwkv{generation}")
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", alpha)
        for name, tensor in tensors.items():
            writer.add_tensor(name, tensor.numpy())
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()

    atomic_write(path, write)
