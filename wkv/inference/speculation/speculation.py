"""Speculative decoding of one model: the settings, and what was learned about drafts and costs."""

from collections.abc import Sequence
from typing import Literal

import torch

from wkv.errors import InputError
from wkv.inference.model import Model
from wkv.inference.sequence import RunningSequence
from wkv.inference.speculation.choose import Choice, Offer, choose
from wkv.inference.speculation.draft_model import DraftModel
from wkv.inference.speculation.drafter import Drafter, Rates
from wkv.inference.speculation.pass_costs import TABLES, PassClock, PassCosts
from wkv.inference.speculation.time_budget import TimeBudget

MAX_DRAFT = 16
"""The largest number of drafts of one sequence in a pass."""

MAX_ROWS = 17
"""The largest number of rows, over all sequences, of a pass with drafts."""

Speculate = Literal["auto", "off"] | int


class Speculation:
    """The drafting of a model's sequences. It may serve many generations, one at a time.

    Attributes:
        draft: the number of drafts of each pass; None chooses it by costs and acceptance.
        draft_model: a model that drafts where the text gives no draft, or None.
        costs: the time of a pass by its number of rows.
        clock: measures the passes.
    """

    def __init__(
        self,
        costs: PassCosts,
        draft: int | None = None,
        draft_model: DraftModel | None = None,
    ) -> None:
        self.draft = draft
        self.draft_model = draft_model
        self.costs = costs
        self.clock = PassClock(costs)
        self._rates = Rates()
        self._budget = TimeBudget()

    def drafter(
        self,
        context: Sequence[int] = (),
        prediction: Sequence[int] = (),
        owner: str | None = "",
    ) -> Drafter:
        """Return a drafter for a new sequence; see `Drafter` and `DraftModel.reader`."""
        reader = None if self.draft_model is None else self.draft_model.reader(context, owner)
        return Drafter(self._rates, context, prediction, reader)

    def update(self, sequences: Sequence[RunningSequence]) -> None:
        """Learn from the tokens that were sampled since the last pass."""
        for sequence in sequences:
            if sequence.drafter is not None:
                extra, tokens = sequence.drafter.update(sequence)
                if tokens:
                    self._budget.spend(extra, tokens)

    def next_drafts(self, sequences: Sequence[RunningSequence]) -> list[list[int]]:
        """Return the drafts that the next pass reads for each sequence; most lists are empty."""
        self.update(sequences)
        most = MAX_DRAFT if self.draft is None else self.draft
        cost = self._model_cost()
        offers = [
            Offer((), TimeBudget())
            if sequence.drafter is None or sequence.finish_reason is not None
            else sequence.drafter.offer(sequence, most, cost)
            for sequence in sequences
        ]
        if self.draft is None:
            choice = choose(offers, self.costs.of, self._budget, MAX_ROWS)
        else:
            numbers = [len(offer.acceptance) for offer in offers]
            choice = Choice(numbers, [0.0] * len(numbers))
        return [
            [] if sequence.drafter is None else sequence.drafter.send(sequence, count, extra)
            for sequence, count, extra in zip(sequences, choice.drafts, choice.extra, strict=True)
        ]

    def _model_cost(self) -> float:
        """Return the cost of a token of the draft model, in the unit of the costs of passes."""
        if self.draft_model is None:
            return 0.0
        seconds = self.draft_model.seconds
        if seconds is None or not self.costs.is_measured:
            return self.draft_model.relative_size * self.costs.of(1)
        return seconds


def speculation_for(
    model: Model,
    speculate: "Speculate | Speculation" = "auto",
    draft: Model | None = None,
) -> Speculation | None:
    """Return the speculation for a model, or None for plain decoding.

    Args:
        model: the model that generates.
        speculate: "auto" drafts where that saves time, and nowhere if this model's passes of
            several rows do not give the bits of passes of one row; "off"; or the largest number
            of drafts in a pass, 1 to 16, which are then always sent. A Speculation is returned as
            it is, so that what it has learned is used again.
        draft: a small model with the same vocabulary, which drafts where the text gives no draft.

    Raises:
        InputError: for any other value, and for a number or a draft model where speculation would
            change the text.
    """
    if isinstance(speculate, Speculation):
        return speculate
    if speculate not in ("auto", "off") and not _is_number(speculate):
        raise InputError(
            f"speculate is {speculate!r}, expected 'auto', 'off' or a number from 1 to {MAX_DRAFT}"
        )
    if speculate == "off":
        if draft is not None:
            raise InputError("a draft model was given, but speculate is 'off'; use 'auto'")
        return None
    reason = unsupported_reason(model)
    if reason is not None:
        if speculate == "auto" and draft is None:
            return None
        raise InputError(f"speculative decoding would change the text here: {reason}")
    costs = PassCosts(TABLES.get(format_of(model), TABLES["int8"]))
    number = None if isinstance(speculate, str) else speculate
    return Speculation(costs, number, None if draft is None else DraftModel(draft, model))


def _is_number(speculate: object) -> bool:
    return type(speculate) is int and 1 <= speculate <= MAX_DRAFT


def unsupported_reason(model: Model) -> str | None:
    """Return why a pass of several rows may not give the bits of passes of one row, or None."""
    if model.engine != "native":
        return (
            f"the engine {model.engine} rounds several rows in another way than one; only the "
            "native CPU engine gives the same bits"
        )
    return None


def format_of(model: Model) -> str:
    """Return the name of the model's format in the table of costs."""
    layer = model.strategy.layers[0]
    if layer.packed is not None:
        return layer.packed
    return {torch.float16: "fp16", torch.bfloat16: "bf16"}.get(layer.dtype, "fp32")
