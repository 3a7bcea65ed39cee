"""Sampling of one token in float64, row by row. Independent of wkv.

The random numbers are Philox4x32-10 (Salmon et al. 2011), with the seed as key and the counter
(id div 4, position, choice, 0); E = -log1p(-(word + 1/2) / 2^32); the smallest E / p wins.
"""

import numpy as np

MASK = 2**32 - 1


def philox(counter, key):
    """Return four words for four counter words, in Python's integers."""
    a, b, c, d = counter
    k, m = key
    for _ in range(10):
        x, y = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (y >> 32) ^ b ^ k, y & MASK, (x >> 32) ^ d ^ m, x & MASK
        k, m = (k + 0x9E3779B9) & MASK, (m + 0xBB67AE85) & MASK
    return a, b, c, d


def exponential(seed, choice, position, token):
    """Return the noise of one id."""
    words = philox((token // 4, position, choice, 0), (seed & MASK, seed >> 32))
    return -np.log1p(-(words[token % 4] + 0.5) / 2**32)


def remaining(logits, temperature, top_p, top_k, counts, presence, frequency, banned):
    """Return the weights (V,) that remain, and how far the nearest decision was from its limit."""
    logits = np.array(logits, np.float64)
    for token, count in counts.items():
        logits[token] -= presence + count * frequency
    logits[list(banned)] = -np.inf
    if temperature == 0:
        best = np.flatnonzero(logits == logits.max())[0]
        return np.arange(len(logits)) == best, np.inf
    p = np.exp(logits - logits.max())
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    margin = np.inf
    if top_p < 1:
        sums = np.cumsum(p[order])
        margin = np.abs(sums - top_p).min()
        reached = np.flatnonzero(sums >= top_p)
        if len(reached):
            p = np.where(p >= p[order[reached[0]]], p, 0)
    if top_k:
        kept = np.zeros_like(p)
        kept[order[:top_k]] = p[order[:top_k]]
        p = kept
    return np.where(p > 0, (p / p.max()) ** (1 / temperature), 0), margin


def sample(weights, seed, choice, position):
    """Return the sampled id, and the relative distance to the second best."""
    ids = np.flatnonzero(weights > 1e-300)  # smaller weights overflow, and never win
    quotients = np.array([exponential(seed, choice, position, int(i)) for i in ids]) / weights[ids]
    order = np.argsort(quotients, kind="stable")
    best = quotients[order[0]]
    margin = np.inf if len(ids) == 1 else quotients[order[1]] / best - 1
    return int(ids[order[0]]), margin
