"""Sample the next token of many sequences at once, in the order of ChatRWKV.

    penalties -> banned tokens -> softmax -> top_p -> top_k -> temperature -> sample

Temperature is applied last, to the remaining probabilities: p^(1/temperature). Everything happens
on the device of the logits. A row gives the same token alone and in a batch.

Source: `rwkv` package, utils.py, with three changes: top_p = 1 keeps all tokens, logits are never
changed in place, and the random numbers are those of `wkv.inference.noise`.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from wkv.errors import InputError
from wkv.inference.noise import race
from wkv.inference.sampling import Sampler, Sampling
from wkv.ops.torch_settings import thread_limit

PARTIAL_SORTS = (256, 4096)
"""top_p and top_k look at this many of the largest probabilities before they sort all of them."""

ROWS_AT_ONCE = 16
"""Rows that are sampled together on a CPU, so that their probabilities stay in its cache."""


def sample_batch(logits: Tensor, samplers: Sequence[Sampler]) -> list[int | InputError]:
    """Sample a token for each row.

    Args:
        logits: (R, V), not changed.
        samplers: the memory of each row, not changed; `Sampler.record` counts the token.

    Returns:
        A token for each row, or the error of this row alone: its logits are not finite, or all of
        its tokens are banned.
    """
    step = ROWS_AT_ONCE if logits.device.type == "cpu" else len(samplers)
    results: list[int | InputError] = []
    with thread_limit(1):  # the work is done before a second thread would wake up
        for start in range(0, len(samplers), max(step, 1)):
            rows = slice(start, start + step)
            results += _sample_rows(logits[rows], samplers[rows])
    return results


def _sample_rows(logits: Tensor, samplers: Sequence[Sampler]) -> list[int | InputError]:
    vocab = logits.shape[1]
    logits = with_bans(penalized(logits, samplers), samplers)
    largest, tokens = logits.max(-1)
    is_finite = torch.isfinite(largest).tolist()
    random_rows = [
        row
        for row, sampler in enumerate(samplers)
        if sampler.sampling.temperature > 0 and is_finite[row]
    ]
    if random_rows:
        chosen = [samplers[row] for row in random_rows]
        if len(random_rows) < len(samplers):
            logits, largest = logits[random_rows], largest[random_rows]
        weights = filtered(logits, largest, [sampler.sampling for sampler in chosen])
        tokens[random_rows] = race(weights, [sampler.noise_key for sampler in chosen])
    return [
        _error(sampler, vocab, is_finite=finite) or token
        for sampler, token, finite in zip(samplers, tokens.tolist(), is_finite, strict=True)
    ]


def _error(sampler: Sampler, vocab: int, *, is_finite: bool) -> InputError | None:
    """Return why no token can be sampled for a row, or None."""
    banned = sampler.sampling.banned
    if wrong := [token for token in banned if not 0 <= token < vocab]:
        return InputError(f"banned ids must be 0 to {vocab - 1}, {wrong} were given")
    if is_finite:
        return None
    if len(set(banned)) == vocab:
        return InputError("all ids are banned, so no token can be sampled; ban fewer")
    return InputError(
        "the logits are not finite (NaN or infinity), so no token can be sampled; the model "
        "overflowed or its file is damaged: try the strategy 'cpu fp32'"
    )


def penalized(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Subtract presence_penalty + count * frequency_penalty from logits (R, V) of counted ids."""
    rows, ids, penalties = [], [], []
    for row, sampler in enumerate(samplers):
        sampling, counts = sampler.sampling, sampler.counts
        if counts.size and (sampling.presence_penalty or sampling.frequency_penalty):
            rows.append(np.full(counts.size, row))
            ids.append(counts.ids)
            penalty = sampling.presence_penalty + counts.counts * sampling.frequency_penalty
            penalties.append(penalty)
    if not rows:
        return logits
    places = torch.from_numpy(np.stack([np.concatenate(rows), np.concatenate(ids)]))
    values = torch.from_numpy(np.concatenate(penalties)).to(logits.device, logits.dtype)
    row_of, id_of = places.to(logits.device)
    return logits.index_put((row_of, id_of), logits[row_of, id_of] - values)


def with_bans(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Return logits (R, V) in which those of the banned ids of each row are minus infinity."""
    vocab = logits.shape[1]
    places = [
        (row, token)
        for row, sampler in enumerate(samplers)
        for token in sampler.sampling.banned
        if 0 <= token < vocab
    ]
    if not places:
        return logits
    rows, ids = torch.tensor(places, device=logits.device).unbind(1)
    return logits.index_put((rows, ids), logits.new_tensor(-torch.inf))


def filtered(logits: Tensor, largest: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """Return the probabilities that remain after top_p, top_k and temperature, not normalized.

        p = exp(logits - largest) ; cutoff = the sorted p at which the sum first reaches top_p
        p <- p where p >= cutoff ; p <- the top_k largest ; p <- p^(1/temperature)

    Args:
        logits: (R, V).
        largest: (R,), the largest logit of each row.
        samplings: the parameters of each row; temperatures above 0.

    Returns:
        (R, V) float32; the largest of each row is 1.
    """
    relative = (logits - largest[:, None]).float()
    weights = relative.exp()
    narrow = [row for row, one in enumerate(samplings) if one.top_p < 1 or one.top_k > 0]
    if narrow:
        kept = _nucleus(weights[narrow], [samplings[row] for row in narrow])
        weights[narrow] = kept
    heated = [row for row, one in enumerate(samplings) if one.temperature != 1]
    if heated:
        temperatures = [samplings[row].temperature for row in heated]
        exponent = 1 / torch.tensor(temperatures, device=logits.device)[:, None]
        powers = (relative[heated] * exponent).exp()
        weights[heated] = torch.where(weights[heated] > 0, powers, 0.0)
    return weights


def _nucleus(weights: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """Return weights (R, V) in which those that top_p and top_k remove are 0.

    Tokens that are as probable as the last one that top_p keeps are kept too; if more than top_k
    are equal, the lowest ids are kept.
    """
    vocab, device = weights.shape[1], weights.device
    # Sums are float64: in float32, which tokens remain would depend on the order of addition.
    wide = torch.float64
    top_p = torch.tensor([one.top_p for one in samplings], device=device, dtype=wide)[:, None]
    # The sum of all probabilities may be rounded to less than 1, which must not cut anything.
    sums = weights.sum(1, keepdim=True, dtype=wide)
    target = torch.where(top_p < 1, top_p * sums, torch.inf)
    top_k = torch.tensor([min(one.top_k or vocab, vocab) for one in samplings], device=device)
    cutoff = torch.zeros_like(target, dtype=weights.dtype)
    rows = torch.arange(len(weights), device=device)
    for look in (*(size for size in PARTIAL_SORTS if size < vocab), vocab):
        ordered = (
            weights[rows].topk(look).values
            if look < vocab
            else weights[rows].sort(descending=True).values
        )
        reached = ordered.cumsum(1, dtype=wide) >= target[rows]
        is_reached, first = reached.max(1)
        by_p = torch.where(is_reached, ordered.gather(1, first[:, None])[:, 0], 0.0)
        has_k = top_k[rows] <= look
        by_k = torch.where(
            has_k, ordered.gather(1, (top_k[rows] - 1).clamp(max=look - 1)[:, None])[:, 0], 0.0
        )
        cutoff[rows, 0] = torch.maximum(by_p, by_k)
        # A row is done if the smaller of both sets is known.
        rows = rows[~(is_reached | has_k)]
        if len(rows) == 0:
            break
    weights = torch.where(weights >= cutoff, weights, 0.0)
    return _limited(weights, cutoff, top_k)


def _limited(weights: Tensor, cutoff: Tensor, top_k: Tensor) -> Tensor:
    """Remove equal weights at the cutoff from rows in which more than top_k remain."""
    surplus = (weights > 0).sum(1) - top_k
    if not bool((surplus > 0).any()):
        return weights
    ties = weights == cutoff
    allowed = ties.sum(1, keepdim=True) - surplus.clamp(min=0)[:, None]
    return torch.where(ties & (ties.cumsum(1) > allowed), 0.0, weights)
