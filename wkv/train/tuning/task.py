"""One process of a fine-tuning run: its rows, the gradient, and the best tensors so far."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from wkv.models.state import LayerState
from wkv.train.data import Batch, RowSource
from wkv.train.loss import backward_in_chunks
from wkv.train.optimizer import Trained
from wkv.train.run_folder import RunFolder
from wkv.train.schedule import Schedule
from wkv.train.tuning.methods import TunedModel

WORSE = 1.1
"""A held-out loss above this multiple of the loss before training is a sign of divergence."""

MOST_WORSE = 3
"""Number of such losses in a row after which a run ends."""


class TuningTask:
    """A model that is tuned, its rows and its loss; see `wkv.train.loop.Task`.

    Attributes:
        tuned: the model and its trained tensors.
        measure: returns the loss of held-out documents.
        before: the held-out loss before training.
        eval_every: steps between two measurements.
        carry: tokens after which the gradient of a row is cut, or None.
        micro_rows: number of rows that are computed at a time.
        best_loss, best: the smallest held-out loss so far, and the tensors that had it.
    """

    def __init__(
        self,
        tuned: TunedModel,
        rows: RowSource,
        schedule: Schedule,
        config: Mapping[str, Any],
        *,
        carry: int | None,
        micro_rows: int,
        uses_autocast: bool,
    ) -> None:
        self.tuned = tuned
        self.trained: Sequence[Trained] = tuned.trained
        self.rows, self.schedule = rows, schedule
        self.config: Mapping[str, Any] = config
        self.stop_reason: str | None = None
        self.carry, self.micro_rows, self.uses_autocast = carry, micro_rows, uses_autocast
        self.measure: Callable[[], float] | None = None
        self.before: Mapping[str, Any] = {}
        self.eval_every = 1
        self.best_loss = float("inf")
        self.best: dict[str, Tensor] = {}
        self.worse = 0

    def backward(self, rows: Batch, total: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute `Task.backward`, for some rows at a time."""
        results = [
            self._backward_of(rows, slice(first, first + self.micro_rows), total)
            for first in range(0, len(rows.inputs), self.micro_rows)
        ]
        chosen, losses, weights = zip(*results, strict=True)
        return torch.cat(chosen), torch.cat(losses), torch.cat(weights)

    def _backward_of(
        self, rows: Batch, part: slice, total: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Add the gradient of some rows, in pieces of `carry` tokens."""
        inputs, targets, weights = rows.inputs[part], rows.targets[part], rows.weights[part]
        width = rows.inputs.shape[1]
        needed = int(weights.any(0).nonzero().max()) + 1 if bool(weights.any()) else 0
        step = self.carry or max(needed, 1)
        layers = self.tuned.layers(len(inputs))
        found = []
        for start in range(0, needed, step):
            here = slice(start, min(start + step, needed))
            row, column = torch.nonzero(weights[:, here], as_tuple=True)
            losses, layers = self._piece(
                inputs[:, here], layers, (row, column), targets[:, here][row, column],
                weights[:, here][row, column] / total,
            )  # fmt: skip
            position = (row + (part.start or 0)) * width + column + start
            found.append((position, losses, weights[:, here][row, column]))
        if not found:
            nothing = torch.zeros(0)
            return nothing.long(), nothing, nothing
        position, losses, counted = (torch.cat(parts) for parts in zip(*found, strict=True))
        return position, losses, counted

    def _piece(
        self,
        inputs: Tensor,
        layers: tuple[LayerState, ...],
        place: tuple[Tensor, Tensor],
        targets: Tensor,
        shares: Tensor,
    ) -> tuple[Tensor, tuple[LayerState, ...]]:
        """Add the gradient of one piece; return the losses at `place` and the state after it."""
        network = self.tuned.network
        device = network.emb.weight.device
        learns = len(targets) > 0
        with self.autocast(), torch.set_grad_enabled(learns):
            X, layers = network(inputs.to(device), layers)
        layers = tuple(layer.map(Tensor.detach) for layer in layers)
        if not learns:
            return torch.zeros(0), layers
        chosen = X[place[0].to(X.device), place[1].to(X.device)]
        losses = backward_in_chunks(
            self._logits, chosen, targets.to(X.device), shares.to(X.device),
            network.config.vocab_size,
        )  # fmt: skip
        return losses.cpu(), layers

    def _logits(self, X: Tensor) -> Tensor:
        with self.autocast():
            return self.tuned.network.logits(X)

    def autocast(self) -> torch.autocast:
        """Return a context in which products of float32 weights are computed in bf16, if any."""
        device = self.tuned.network.emb.weight.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.uses_autocast)

    def held_out_loss(self, step: int, *, is_last: bool) -> dict[str, float]:
        """Measure held-out documents every `eval_every` steps, and keep the best tensors."""
        if self.measure is None or not (step % self.eval_every == 0 or is_last):
            return {}
        loss = self.measure()
        if loss < self.best_loss:
            self.best_loss = loss
            self.best = {one.name: one.parameter.detach().clone() for one in self.trained}
        before = self.before.get("loss")
        self.worse = self.worse + 1 if before is not None and not loss <= WORSE * before else 0
        if self.worse >= MOST_WORSE:
            self.stop_reason = (
                f"the held-out loss is {loss:.3f} after step {step}, and was {before:.3f} before "
                "training; the best tensors are kept, give a lower --learning-rate"
            )
        return {"held-out": round(loss, 4)}

    @torch.no_grad()
    def restore_best(self) -> None:
        """Set the trained tensors to those with the smallest held-out loss."""
        for one in self.trained:
            if one.name in self.best:
                one.parameter.copy_(self.best[one.name])

    def state(self) -> dict[str, Any]:
        """Return the best tensors, and what was measured before training."""
        return {
            "best": self.best,
            "best_loss": self.best_loss,
            "before": dict(self.before),
            "worse": self.worse,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        self.best, self.best_loss = dict(state["best"]), state["best_loss"]
        self.before, self.worse = dict(state["before"]), state["worse"]

    def export(self, folder: RunFolder) -> None:
        """Write nothing: the result is written once, when the run ends."""
