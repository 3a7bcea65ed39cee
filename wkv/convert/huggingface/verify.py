"""Verification of a Hugging Face directory with wkv and, if it is installed, with transformers."""

import importlib
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from wkv.convert.checkpoint_file import mapped_strategy
from wkv.convert.huggingface.target import Target
from wkv.convert.verify import N_TOKENS, TEXT, arbitrary_ids, check_logits, check_tokens, verify
from wkv.errors import TokenizerError, install_command
from wkv.inference.describe import Description, describe
from wkv.inference.load import build_model
from wkv.inference.model import Model
from wkv.models.strategy.choose import MAX_MEMORY_SHARE, memory_bytes
from wkv.models.strategy.language import DTYPES, Segment
from wkv.models.strategy.placement import place
from wkv.tokenizers import Tokenizer

NEW_TOKENS = 24
"""Number of tokens that transformers generates greedily."""


@dataclass(frozen=True)
class Verification:
    """The result of a verification.

    Attributes:
        by_wkv: largest difference of logits between the source and the directory; 0 is exact.
        by_transformers: largest difference between wkv and transformers in float32; None if
            transformers was not used.
        reason: why transformers was not used; empty if it was.
    """

    by_wkv: float
    by_transformers: float | None
    reason: str = ""


def verify_directory(
    source: Description,
    folder: Path,
    target: Target,
    *,
    dtype: str | None = None,
    tokenizer: Tokenizer | None = None,
) -> Verification:
    """Compare an exported directory with its source.

    Args:
        source: the source; it cannot be used afterwards, because its network is filled.
        folder: the directory.
        target: the layout of the directory.
        dtype: dtype of the written matrices, if it differs from that of the source.
        tokenizer: tokenizer of the source; None: selected by its vocabulary.

    Raises:
        CheckpointError: if they are not the same model.
    """
    strategy = mapped_strategy(source)
    if dtype is not None:
        strategy = place([Segment("cpu", DTYPES[dtype])], source.config.n_layer)
    needed = torch.float32.itemsize * source.n_params
    original = build_model(source, strategy, tokenizer, engine="torch")
    ids = _ids(original)
    _, by_wkv = verify(original, folder, ids=ids, one_by_one=False)
    _check_tokenizer(original, folder)
    del original
    if target.code is None:
        return Verification(by_wkv, None, "this layout has no code for transformers yet")
    if find_spec("transformers") is None:
        reason = f"transformers is not installed: {install_command('hf')}"
        return Verification(by_wkv, None, reason)
    if needed > MAX_MEMORY_SHARE * memory_bytes():
        return Verification(by_wkv, None, "the model does not fit into memory in float32")
    return Verification(by_wkv, _compare_with_transformers(folder, target, ids))


def _ids(model: Model) -> list[int]:
    """Return token ids of TEXT, or arbitrary ids if the model has no tokenizer."""
    try:
        ids = model.tokenizer.encode(TEXT)
    except TokenizerError:
        ids = arbitrary_ids(model)
    return ids[:N_TOKENS]


def _check_tokenizer(model: Model, folder: Path) -> None:
    """Raise a CheckpointError unless the written tokenizer returns the same ids as wkv's."""
    if not (folder / "tokenizer.json").is_file():
        return
    from tokenizers import Tokenizer

    written = Tokenizer.from_file(str(folder / "tokenizer.json"))
    found = written.encode(TEXT, add_special_tokens=False).ids
    check_tokens(folder, "the written tokenizer", model.tokenizer.encode(TEXT), found)


def _compare_with_transformers(folder: Path, target: Target, ids: list[int]) -> float:
    """Return the largest difference of logits, for a sequence and for greedy generation.

    Raises:
        CheckpointError: if it is larger than rounding errors, also because of other greedy tokens.
    """
    found, generated = _run_transformers(folder, target, ids)
    written = describe(folder)
    strategy = place([Segment("cpu", torch.float32)], written.config.n_layer)
    model = build_model(written, strategy, engine="torch")
    logits, _ = model.forward(ids + generated, all_logits=True)
    expected, predictions = logits[: len(ids)], logits[len(ids) - 1 : -1]
    # How far each generated token is below wkv's most likely token; 0 if they are the same.
    missed = predictions.amax(-1) - predictions[range(len(generated)), generated]
    difference = float((found - expected).abs().max())
    difference = max(difference, float(missed.max()))
    check_logits(folder, "transformers", difference, expected)
    return difference


@torch.no_grad()
def _run_transformers(folder: Path, target: Target, ids: list[int]) -> tuple[Tensor, list[int]]:
    """Return the logits (T, V) of ids and the greedy continuation, computed by transformers."""
    network = _load_in_transformers(folder, target)
    row = torch.tensor([ids])
    generated = network.generate(
        row,
        attention_mask=torch.ones_like(row),
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        eos_token_id=None,
    )
    return network(row).logits[0], generated[0, len(ids) :].tolist()


def _load_in_transformers(folder: Path, target: Target) -> Any:
    """Load the directory with transformers in float32, using the code next to the weights."""
    from transformers.utils import logging

    name = f"wkv_exported_{folder.name}"
    module = _import_code(name, folder, f"modeling_{target.code}")
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        network = getattr(module, f"{target.stem}ForCausalLM")
        return network.from_pretrained(folder, dtype=torch.float32).eval()
    finally:
        for imported in [one for one in sys.modules if one.partition(".")[0] == name]:
            del sys.modules[imported]
        if shown:
            logging.enable_progress_bar()


def _import_code(name: str, folder: Path, module: str) -> ModuleType:
    """Import a module of a folder as `name.module`, without writing bytecode files to it."""
    package = ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        return importlib.import_module(f"{name}.{module}")
    finally:
        sys.dont_write_bytecode = before
