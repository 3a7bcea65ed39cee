"""Proof that a directory is the same model, read by wkv and, where it is there, by transformers."""

import importlib.util
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from wkv.convert.checkpoint_file import differing_tensors, mapped_strategy
from wkv.convert.huggingface.target import Target
from wkv.errors import CheckpointError, TokenizerError
from wkv.inference.load import Description, build_model, describe
from wkv.inference.model import Model
from wkv.strategy.choose import MOST_OF_MEMORY, memory_bytes
from wkv.strategy.language import DTYPES, Segment
from wkv.strategy.placement import place
from wkv.tokenizers import Tokenizer

TEXT = "The Duchess said: 27 + 48 = 75, 今天天气不错 😀\n\n    return x[0]\n"
"""Read by both; its words are in no vocabulary alone."""

FEW, MANY = 48, 24
"""Ids read as one sequence, and then drawn greedily."""

LIMIT = 1e-3
"""Largest difference between wkv and transformers in float32, for logits of size 1."""


@dataclass(frozen=True)
class Proof:
    """What was compared.

    Attributes:
        by_wkv: largest difference of logits between the source and the directory; 0 is exact.
        by_transformers: the same through transformers in float32; None if it was not asked.
        reason: why transformers was not asked; empty if it was.
    """

    by_wkv: float
    by_transformers: float | None
    reason: str = ""


def prove(
    source: Description,
    folder: Path,
    target: Target,
    *,
    dtype: str | None = None,
    tokenizer: Tokenizer | None = None,
) -> Proof:
    """Compare a directory with its source.

    Args:
        source: is used up.
        folder: the directory.
        target: what the directory is.
        dtype: of the matrices in it, if it is not that of the source.
        tokenizer: of the source, if it is not the one that its vocabulary tells.

    Raises:
        CheckpointError: if they are not the same model.
    """
    strategy = mapped_strategy(source)
    if dtype is not None:
        strategy = place([Segment("cpu", DTYPES[dtype])], source.config.n_layer)
    needed = torch.float32.itemsize * source.n_params
    original = build_model(source, strategy, tokenizer, engine="torch")
    written = build_model(describe(folder), strategy, engine="torch")
    wrong = differing_tensors(original, written)
    if wrong:
        raise CheckpointError(
            f"{folder}: {len(wrong)} tensors differ from those of the source, the first is "
            f"{wrong[0]}; the directory was not kept. Please report this, with the model's name"
        )
    ids = _ids(original)
    by_wkv = float((_logits(original, ids) - _logits(written, ids)).abs().max())
    _check_tokenizer(original, folder)
    del original, written
    if target.module is None:
        return Proof(by_wkv, None, "this layout has no code for transformers yet")
    if find_spec("transformers") is None:
        return Proof(by_wkv, None, "transformers is not installed: pip install 'wkv[hf]'")
    if needed > MOST_OF_MEMORY * memory_bytes():
        return Proof(by_wkv, None, "in float32 the model would not fit into memory")
    return Proof(by_wkv, _compare_with_transformers(folder, target, ids))


def _ids(model: Model) -> list[int]:
    """Ids of the text, or any where the model has no tokenizer."""
    try:
        ids = model.tokenizer.encode(TEXT)
    except TokenizerError:
        ids = [(7 * i + 1) % model.config.vocab_size for i in range(FEW)]
    return ids[:FEW]


def _logits(model: Model, ids: list[int]) -> Tensor:
    """(T, V) float32."""
    return model.forward(ids, all_logits=True)[0]


def _check_tokenizer(model: Model, folder: Path) -> None:
    """Raise unless the tokenizer that was written gives the ids of ours."""
    if not (folder / "tokenizer.json").is_file():
        return
    from tokenizers import Tokenizer

    written = Tokenizer.from_file(str(folder / "tokenizer.json"))
    found = written.encode(TEXT, add_special_tokens=False).ids
    if found != model.tokenizer.encode(TEXT):
        raise CheckpointError(
            f"{folder}: the tokenizer that was written gives other ids than "
            f"{model.tokenizer.name}; the directory was not kept. Please report this"
        )


def _compare_with_transformers(folder: Path, target: Target, ids: list[int]) -> float:
    """The largest difference of logits, as a sequence and while drawing greedily.

    Raises:
        CheckpointError: if it is larger than rounding can make it, or other tokens are drawn.
    """
    found, drawn = _by_transformers(folder, target, ids)
    written = describe(folder)
    strategy = place([Segment("cpu", torch.float32)], written.config.n_layer)
    model = build_model(written, strategy, engine="torch")
    logits = _logits(model, ids + drawn)
    expected, along = logits[: len(ids)], logits[len(ids) - 1 : -1]
    missed = along.amax(-1) - along[range(len(drawn)), drawn]  # 0 where the same token is drawn
    difference = float((found - expected).abs().max())
    difference = max(difference, float(missed.max()))
    if not difference <= LIMIT * max(1.0, float(expected.abs().max())):
        raise CheckpointError(
            f"{folder}: through transformers the logits differ by {difference:.3g}, more than "
            "rounding can; the directory was not kept. Please report this, with the name of the "
            "model"
        )
    return difference


@torch.no_grad()
def _by_transformers(folder: Path, target: Target, ids: list[int]) -> tuple[Tensor, list[int]]:
    """Logits (T, V) of ids, and what is drawn greedily after them."""
    network = _loaded(folder, target)
    row = torch.tensor([ids])
    drawn = network.generate(
        row,
        attention_mask=torch.ones_like(row),
        do_sample=False,
        max_new_tokens=MANY,
        eos_token_id=None,
    )
    return network(row).logits[0], drawn[0, len(ids) :].tolist()


def _loaded(folder: Path, target: Target) -> Any:
    """The model as transformers has it, by the code beside the weights, in float32."""
    assert target.module is not None
    from transformers.utils import logging

    module = _imported(folder / f"{target.module}.py")
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        network = getattr(module, f"{target.stem}ForCausalLM")
        return network.from_pretrained(folder, dtype=torch.float32).eval()
    finally:
        del sys.modules[module.__name__]
        if shown:
            logging.enable_progress_bar()


def _imported(path: Path) -> ModuleType:
    """The file as a module of its own, without leaving compiled files beside it."""
    name = f"wkv_exported_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module
