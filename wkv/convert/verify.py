"""Verification that a written checkpoint is the same model as its original.

`verify` is the one comparison behind `wkv convert` and `wkv quantize`. Both models are loaded with
the strategy whose dtypes were written, so a written tensor must equal the original rounded to its
dtype. The comparisons with transformers and llama.cpp, which compute in another order, use
`check_logits` in addition.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from wkv.checkpoint import Checkpoint
from wkv.checkpoint.packing import Packed
from wkv.errors import CheckpointError
from wkv.inference.describe import describe
from wkv.inference.load import build_model, strategy_for
from wkv.inference.model import Model
from wkv.tokenizers import Tokenizer

N_TOKENS = 48
"""Number of tokens whose logits are compared, as one sequence and one by one."""

TEXT = "The Duchess said: 27 + 48 = 75, 今天天气不错 😀\n\n    return x[0]\n"
"""Text that is tokenized to compare tokenizers; no vocabulary has it as a single token."""

LIMIT = 1e-3
"""Largest accepted difference from another program's logits in float32, for logits of size 1."""


def verify(
    original: Model,
    written: Path,
    *,
    packed: Mapping[str, Packed] | None = None,
    ids: list[int] | None = None,
    one_by_one: bool = True,
    tokenizer: Tokenizer | None = None,
) -> tuple[Model, float]:
    """Compare a model with the checkpoint that was written from it.

    Args:
        original: the model, loaded with the strategy that the checkpoint was written for.
        written: the new file or directory.
        packed: matrices that the file must contain byte for byte. With them the logits must be
            equal too, because both models then compute with the same bits.
        ids: token ids to compare the logits for; None: N_TOKENS arbitrary ids.
        one_by_one: whether to compare the logits of single tokens too. If the file stores matrices
            transposed, equal tensors have other strides, and matrix-vector products with them may
            be rounded differently.
        tokenizer: the tokenizer of the written model; None: selected by its vocabulary.

    Returns:
        The written model, and the largest absolute difference of the logits.

    Raises:
        CheckpointError: if the models differ; names the first differing tensor.
    """
    packed = packed or {}
    description = describe(written)
    check_equal(written, _differing_matrices(packed, description.checkpoint))
    strategy = strategy_for(description, "auto") if packed else original.strategy
    model = build_model(description, strategy, tokenizer, engine=original.engine)
    check_equal(written, _differing_tensors(original, model, packed))
    differences = []
    ids = ids or arbitrary_ids(original)
    for pieces in ([ids], [[token] for token in ids] if one_by_one else []):
        state = other_state = None
        for piece in pieces:
            expected, state = original.forward(piece, state, all_logits=True)
            found, other_state = model.forward(piece, other_state, all_logits=True)
            by = float((expected - found).abs().max())
            if packed and not torch.equal(expected.nan_to_num(), found.nan_to_num()):
                raise CheckpointError(
                    f"{written.name}: the logits of the new file differ by {by:g} from those of "
                    "the matrices in memory; nothing was saved, please report this"
                )
            differences.append(by)
    return model, max(differences)


def arbitrary_ids(model: Model) -> list[int]:
    """Return N_TOKENS ids of the vocabulary of a model, always the same."""
    return [(7 * i + 1) % model.config.vocab_size for i in range(N_TOKENS)]


def check_equal(written: Path, differing: Sequence[str], kind: str = "tensors") -> None:
    """Raise a CheckpointError that names the first differing tensor, if any differ."""
    if differing:
        raise CheckpointError(
            f"{written.name}: {len(differing)} {kind} differ from those of the original, the first "
            f"is {differing[0]}; nothing was saved. Check the disk, and report this if it happens "
            "again"
        )


def check_logits(written: Path, program: str, difference: float, expected: Tensor) -> None:
    """Raise a CheckpointError if logits of another program differ by more than rounding errors.

    Args:
        written: the new file or directory.
        program: the name of the other program.
        difference: the largest absolute difference of its logits from `expected`.
        expected: the logits of wkv in float32.
    """
    if not difference <= LIMIT * max(1.0, float(expected.abs().max())):
        raise CheckpointError(
            f"{written.name}: the logits of {program} differ by {difference:.3g} from those of "
            "wkv, more than rounding explains; nothing was saved. Please report this, with the "
            "name of the model"
        )


def check_tokens(written: Path, program: str, expected: list[int], found: list[int]) -> None:
    """Raise a CheckpointError unless another program tokenizes TEXT as wkv does."""
    if found != expected:
        raise CheckpointError(
            f"{written.name}: {program} returns other token ids for a text than wkv; nothing was "
            "saved. Please report this, with the name of the model"
        )


def _differing_matrices(packed: Mapping[str, Packed], checkpoint: Checkpoint) -> list[str]:
    """Return the names of packed matrices that a file does not contain byte for byte."""
    return [name for name in packed if not _same_matrix(packed[name], checkpoint.read_packed(name))]


def _same_matrix(expected: Packed, found: Packed | None) -> bool:
    """Return whether two packed matrices have the same format, sizes and bytes."""
    if found is None:
        return False
    kinds = [(one.format, one.layout, one.outputs, one.inputs) for one in (expected, found)]
    return kinds[0] == kinds[1] and torch.equal(expected.data, found.data)


def _differing_tensors(a: Model, b: Model, packed: Mapping[str, Packed]) -> list[str]:
    """Return the names of the tensors, except packed ones, in which two models differ."""
    expected, found = a.network.state_dict(), b.network.state_dict()
    # The factors of a stack are packed one by one, as NAME.0, NAME.1 and so on.
    names = [name for name in expected if name not in packed and f"{name}.0" not in packed]
    return [
        name for name in names if name not in found or not _same_tensor(expected[name], found[name])
    ]


def _same_tensor(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are equal in dtype, shape and all values, including NaN."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(a, b) or (
        a.is_floating_point() and torch.equal(a.nan_to_num(), b.nan_to_num())
    )
