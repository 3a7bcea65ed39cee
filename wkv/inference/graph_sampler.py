"""The sampler of `sample_batch` as a CUDA graph, with the same tokens.

`sample_batch` launches some two hundred kernels and waits for the GPU several times, which takes as
long as a decode step. Here a single graph does the same for a fixed number of rows, and the host
waits once, for the tokens. Rows with a large nucleus are left to `sample_batch`.
"""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from wkv.errors import InputError, first_line
from wkv.gpu.graphs import Run, graph_size
from wkv.gpu.network import GpuNetwork
from wkv.inference.noise import exponential_of, exponential_of_all, key_numbers, winner
from wkv.inference.sample_batch import penalized, sample_batch, with_bans
from wkv.inference.sampling import Sampler

LARGEST_NUCLEUS = 1024
"""The graph keeps this many of the most probable tokens for top_p and top_k."""

WIDE_ROWS = 64
"""Rows that are sampled from all tokens at once; their random numbers need 2 MB for each row."""

NOT_SAMPLED = -1
"""Stands for the token of a row that the graph cannot sample."""


class GraphSampler:
    """One captured sampler for each number of rows; calls take turns with those of the network."""

    def __init__(self, network: GpuNetwork) -> None:
        self._network = network
        self._fixed: dict[tuple[int, bool], FixedSampler] = {}
        self._is_broken = False

    def __call__(self, logits: Tensor, samplers: Sequence[Sampler]) -> list[int | InputError]:
        """Sample a token for each row; see `sample_batch`."""
        if self._is_broken or not samplers:
            return sample_batch(logits, samplers)
        changed = with_bans(penalized(logits, samplers), samplers)
        is_wide = any(map(_keeps_all, samplers))
        tokens: list[int] = []
        for start in range(0, len(samplers), WIDE_ROWS if is_wide else len(samplers)):
            tokens += self._some(changed, samplers, start, is_wide=is_wide)
        vocab = logits.shape[1]
        left = [
            row
            for row, (token, sampler) in enumerate(zip(tokens, samplers, strict=True))
            if token == NOT_SAMPLED or any(not 0 <= one < vocab for one in sampler.sampling.banned)
        ]
        results: list[int | InputError] = list(tokens)
        if left:
            others = sample_batch(logits[left], [samplers[row] for row in left])
            for row, outcome in zip(left, others, strict=True):
                results[row] = outcome
        return results

    def _some(
        self, logits: Tensor, samplers: Sequence[Sampler], start: int, *, is_wide: bool
    ) -> list[int]:
        """Sample rows from `start` on: all of them, or WIDE_ROWS."""
        rows = slice(start, start + WIDE_ROWS if is_wide else None)
        chosen = samplers[rows]
        return self._network.exclusively(
            lambda: self._sampler(len(chosen), logits, is_wide=is_wide)(logits[rows], chosen)
        )

    def _sampler(self, rows: int, logits: Tensor, *, is_wide: bool) -> "FixedSampler":
        """Return the sampler for a number of rows, which is captured when it is first needed."""
        key = graph_size(rows), is_wide
        if key not in self._fixed:
            fixed = FixedSampler(key[0], logits, is_wide=is_wide)
            try:
                fixed.run = self._network.graphs.capture(fixed.run)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self._is_broken = True
                text = "the sampler could not be captured as a CUDA graph (%s); it runs without"
                logging.getLogger(__name__).warning(text, first_line(error))
            self._fixed[key] = fixed
        return self._fixed[key]


def _keeps_all(sampler: Sampler) -> bool:
    """Check whether a row samples from all tokens."""
    sampling = sampler.sampling
    return sampling.temperature > 0 and sampling.top_p >= 1 and not sampling.top_k


class FixedSampler:
    """A sampler with inputs at fixed addresses, for a number of rows.

    Attributes:
        run: samples; returns the tokens (rows,) int64.
    """

    def __init__(self, size: int, like: Tensor, *, is_wide: bool) -> None:
        """Create inputs for logits such as `like`; without `is_wide`, all rows have a nucleus."""
        device, vocab = like.device, like.shape[1]
        self._logits = torch.zeros(size, vocab, dtype=like.dtype, device=device)
        self._whole = torch.zeros(size, 5, dtype=torch.int64, device=device)
        self._real = torch.zeros(size, 3, dtype=torch.float64, device=device)
        self._vocab = vocab
        self.run: Run = self._run_wide if is_wide else self._run_narrow

    def __call__(self, logits: Tensor, samplers: Sequence[Sampler]) -> list[int]:
        """Sample a token for each row of logits (R, V), or NOT_SAMPLED."""
        count, pinned = len(samplers), logits.device.type == "cuda"
        chosen = [sampler.sampling for sampler in samplers]
        whole = key_numbers([sampler.noise_key for sampler in samplers])
        tops = torch.tensor([[min(one.top_k or self._vocab, self._vocab)] for one in chosen])
        rows = [[one.top_p, one.temperature or 1, one.temperature] for one in chosen]
        real = torch.tensor(rows, dtype=torch.float64)
        real[:, 1] = 1 / real[:, 1].float()  # float32, as in `sample_batch`
        numbers = torch.cat([whole, tops], 1)
        if pinned:
            numbers, real = numbers.pin_memory(), real.pin_memory()
        self._logits[:count].copy_(logits)
        self._whole[:count].copy_(numbers, non_blocking=True)
        self._real[:count].copy_(real, non_blocking=True)
        tokens: list[int] = self.run()[:count].tolist()
        return tokens

    def _run_narrow(self) -> Tensor:
        """Sample from the most probable tokens; rows of which more remain are not sampled."""
        relative, cutoff, is_known, values, ids = self._nucleus()
        kept = values >= cutoff
        is_known &= kept.sum(1) <= self._whole[:, 4]
        powers = (relative.gather(1, ids) * self._real[:, 1:2].float()).exp()
        noise = exponential_of(self._whole[:, :4], ids)
        return self._tokens(winner(noise, torch.where(kept, powers, 0.0), ids), is_known)

    def _run_wide(self) -> Tensor:
        """Sample from all tokens, of which rows with a nucleus keep few."""
        relative, cutoff, is_known, values, _ = self._nucleus()
        top_p, top_k = self._real[:, 0], self._whole[:, 4]
        keeps_all = (top_p >= 1) & (top_k >= self._vocab)
        is_known = keeps_all | (is_known & ((values >= cutoff).sum(1) <= top_k))
        kept = (relative.exp() >= cutoff) | keeps_all[:, None]
        powers = torch.where(kept, (relative * self._real[:, 1:2].float()).exp(), 0.0)
        noise = exponential_of_all(self._whole[:, :4], self._vocab)
        ids = torch.arange(self._vocab, device=powers.device)
        return self._tokens(winner(noise, powers, ids), is_known)

    def _nucleus(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return what top_p and top_k need; see `sample_batch`, whose steps these are.

        Returns:
            Logits relative to the largest (R, V); the smallest probability that is kept (R, 1);
            whether the most probable tokens contain all that are kept (R,); and their
            probabilities and ids (R, n), in descending order.
        """
        relative = (self._logits - self._logits.amax(1, keepdim=True)).float()
        weights = relative.exp()
        top_p, top_k = self._real[:, :1], self._whole[:, 4:]
        sums = weights.sum(1, keepdim=True, dtype=torch.float64)
        target = torch.where(top_p < 1, top_p * sums, torch.inf)
        look = min(LARGEST_NUCLEUS, self._vocab)
        values, ids = weights.topk(look)
        is_reached, first = (values.cumsum(1, dtype=torch.float64) >= target).max(1, keepdim=True)
        by_p = torch.where(is_reached, values.gather(1, first), 0.0)
        has_k = top_k <= look
        by_k = torch.where(has_k, values.gather(1, top_k.clamp(1, look) - 1), 0.0)
        cutoff = torch.maximum(by_p, by_k)
        is_known = (is_reached | has_k)[:, 0]
        if look < self._vocab:  # a token beyond these could be as probable as the last one kept
            is_known &= values[:, -1] < cutoff[:, 0]
        return relative, cutoff, is_known, values, ids

    def _tokens(self, sampled: Tensor, is_known: Tensor) -> Tensor:
        """Return the most probable token at temperature 0, otherwise the sampled one if known."""
        largest, greedy = self._logits.max(1)
        tokens = torch.where(is_known, sampled, NOT_SAMPLED)
        tokens = torch.where(self._real[:, 2] > 0, tokens, greedy)
        return torch.where(largest.isfinite(), tokens, NOT_SAMPLED)
