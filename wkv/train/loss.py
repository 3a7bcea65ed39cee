"""The loss of next-token prediction, computed at the targets that count, a chunk at a time."""

from collections.abc import Callable

import torch
from torch import Tensor

from wkv.models.strategy.products import at_least_float32
from wkv.train.data import Batch

TARGET_STEP = 512
"""Targets are padded to a multiple of this number, so that only a few shapes are compiled."""

LOGITS_AT_ONCE = 2**26
"""Largest number of logits that exist at the same time; limits memory."""


def targets_of(rows: Batch, multiple: int = TARGET_STEP) -> tuple[Tensor, Tensor, Tensor]:
    """Select the targets with a weight above 0, padded to a multiple of a number.

    The head is the largest matrix of a small model, so it is computed for these targets only.

    Returns:
        Positions in the flattened batch, ids, and weights, (K,) each; padding has weight 0.
    """
    weights = rows.weights.flatten()
    chosen = torch.nonzero(weights)[:, 0]
    chosen = torch.nn.functional.pad(chosen, (0, -len(chosen) % multiple))
    counts = weights[chosen]
    counts[int((weights > 0).sum()) :] = 0
    return chosen, rows.targets.flatten()[chosen], counts


def cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cross entropy of each target (K,), and the log-sum-exp of its logits (K,)."""
    total = logits.logsumexp(-1)
    return total - logits.gather(1, targets[:, None])[:, 0], total


def backward_in_chunks(
    head: Callable[[Tensor], Tensor], X: Tensor, targets: Tensor, shares: Tensor, vocab_size: int
) -> Tensor:
    """Add the gradient of sum(shares * cross entropy) to each `.grad`, a chunk of logits at a time.

    The gradient of X is collected over the chunks, before it goes back through the network once.
    So the logits of only one chunk exist, and nothing is computed twice.

    Args:
        head: converts a residual stream (K, D) to logits (K, V).
        X: (K, D), the residual stream at the targets.
        targets: (K,) int64.
        shares: (K,), the factor of each target's cross entropy.
        vocab_size: V.

    Returns:
        The cross entropy of each target, (K,).
    """
    step = max(1, LOGITS_AT_ONCE // vocab_size)
    leaf = X.detach().requires_grad_(X.requires_grad)
    losses = []
    for start in range(0, len(X), step):
        here = slice(start, start + step)
        logits = head(leaf[here])
        found, _ = cross_entropy(logits.to(at_least_float32(logits.dtype)), targets[here])
        torch.autograd.backward((found * shares[here]).sum())
        losses.append(found.detach())
    if X.requires_grad:
        torch.autograd.backward(X, leaf.grad)
    return torch.cat(losses)
