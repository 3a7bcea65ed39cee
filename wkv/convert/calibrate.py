"""Measure the inputs of each matrix on a text, so that int4 weights are rounded for these inputs.

The model reads the text in float32 with PyTorch. For each matrix H, the mean of x x^T over the
inputs x, is what `wkv.checkpoint.error_feedback` needs. The network is not changed between the
matrices: with the inputs of a network whose earlier layers were quantized already, the KL
divergence of the built-in model was the same.

`calibration.txt` was written for wkv and has wkv's license: stories, a play, an article, code,
several languages, and conversations of `recipes/demo_model` whose exercises are not those that the
built-in model is examined with.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from wkv.errors import InputError, TokenizerError
from wkv.files import read_text
from wkv.inference.describe import Description
from wkv.inference.load import build_model, strategy_for
from wkv.inference.model import Model
from wkv.inference.prefill import has_leading_zero
from wkv.models.parts import Linear

CALIBRATION = Path(__file__).with_name("calibration.txt")
"""The text that is used by default."""

LEAST_TOKENS, MOST_TOKENS = 256, 16384
"""Number of tokens that a text must have, and number of tokens that are read of it."""

TOKENS_AT_ONCE = 256
"""Number of tokens of a piece of the text; each piece is read from the empty state."""

BYTES_AT_ONCE = 3 * 2**30
"""Memory for the moments of the matrices that are measured while the text is read once."""

Pieces = Sequence[Sequence[int]]


def calibration_pieces(model: Model, path: Path) -> list[list[int]]:
    """Read and tokenize a text, and split it into pieces.

    Raises:
        InputError: if the text cannot be read or has fewer than LEAST_TOKENS tokens.
        TokenizerError: if no tokenizer is known for the vocabulary.
    """
    # No token is longer than 128 characters, so the rest of the text need not be tokenized.
    ids = model.tokenizer.encode(read_text(path)[: 128 * MOST_TOKENS])[:MOST_TOKENS]
    if len(ids) < LEAST_TOKENS:
        raise InputError(
            f"{path}: the text to calibrate on has {len(ids)} tokens, expected at least "
            f"{LEAST_TOKENS}; give a longer text (ten pages are good), or use the default"
        )
    begin = [0] if has_leading_zero(model) else []
    starts = range(0, len(ids), TOKENS_AT_ONCE)
    return [[*begin, *ids[start : start + TOKENS_AT_ONCE]] for start in starts]


def default_pieces(model: Model) -> list[list[int]]:
    """Return the pieces of CALIBRATION; none if no tokenizer is known for the vocabulary."""
    try:
        return calibration_pieces(model, CALIBRATION)
    except TokenizerError:
        return []


def input_moments(
    description: Description,
    pieces: Pieces,
    on_read: Callable[[int, int], object] = lambda done, total: None,
) -> Iterator[Mapping[str, Tensor]]:
    """Measure the inputs of every matrix but low-rank factors and tables.

    The text is read several times if the moments of all matrices need more than BYTES_AT_ONCE.

    Args:
        description: a model with floating-point matrices.
        pieces: ids; each piece is read from the empty state.
        on_read: called with the number of pieces read and their total number.

    Yields:
        For a part of the matrices, H (inputs, inputs) float32 by official name.
    """
    model = build_model(description, strategy_for(description, "cpu fp32"), engine="torch")
    assert isinstance(model.network, torch.nn.Module)
    layers = {
        f"{name}.weight": module
        for name, module in model.network.named_modules()
        if isinstance(module, Linear)
    }
    parts = _parts(layers)
    total = len(parts) * len(pieces)
    for done, names in enumerate(parts):
        sums = {name: torch.zeros(2 * (layers[name].in_features,)) for name in names}
        with _recorded({name: layers[name] for name in names}, sums):
            for number, piece in enumerate(pieces, start=1):
                model.forward(list(piece), all_logits=True)
                on_read(done * len(pieces) + number, total)
        count = sum(map(len, pieces))
        yield {name: moments.div_(count) for name, moments in sums.items()}


def _parts(layers: Mapping[str, Linear]) -> list[list[str]]:
    """Split names so that the moments of each part need at most BYTES_AT_ONCE."""
    parts: list[list[str]] = [[]]
    free = BYTES_AT_ONCE
    for name, layer in layers.items():
        needed = torch.float32.itemsize * layer.in_features**2
        if needed > free and parts[-1]:
            parts.append([])
            free = BYTES_AT_ONCE
        parts[-1].append(name)
        free -= needed
    return parts


@contextmanager
def _recorded(layers: Mapping[str, Linear], sums: Mapping[str, Tensor]) -> Iterator[None]:
    """Add x x^T of all inputs x of the layers to `sums`, by the same names."""
    products = {name: layer.product for name, layer in layers.items()}

    def recording(name: str) -> Callable[..., Tensor]:
        def product(x: Tensor, weight: Tensor, *dtype: torch.dtype) -> Tensor:
            rows = x.reshape(-1, x.shape[-1]).float()
            sums[name].addmm_(rows.t(), rows)
            return products[name](x, weight, *dtype)

        return product

    for name, layer in layers.items():
        layer.product = recording(name)
    try:
        yield
    finally:
        for name, layer in layers.items():
            layer.product = products[name]
