"""The drafts of one sequence: where they come from, and what became of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wkv.inference.sequence import RunningSequence
from wkv.inference.speculation.acceptance import (
    AcceptanceRates,
    match_rates,
    place_rates,
    prediction_rates,
)
from wkv.inference.speculation.choose import Offer
from wkv.inference.speculation.draft_model import DraftReader
from wkv.inference.speculation.suffix_automaton import SuffixAutomaton
from wkv.inference.speculation.time_budget import TimeBudget

TOKENS_AT_ONCE = 4096
"""Tokens of a long prompt that are added to the automaton between two passes."""

MODEL_BELOW_MATCH = 4
"""The draft model is asked if the matched suffix is shorter."""

BREAK = 2**31 - 1
"""Separates a prediction from the prompt; it is never drafted."""

MIN_PRODUCT = 0.05
"""Drafts that are less probable than this are not considered."""

MAX_FAILURES, PAUSE_TOKENS = 3, 200
"""After so many drafts of the model that did not pay, it pauses for so many tokens."""


class Rates:
    """Acceptance rates of each kind of draft, which all sequences of a model share."""

    def __init__(self) -> None:
        self.match = match_rates()
        self.place = place_rates()
        self.prediction = prediction_rates()


@dataclass(frozen=True)
class _Source:
    """Drafts of one kind.

    Attributes:
        acceptance: the probability of each draft, given those before it.
        make: returns so many drafts.
        rates, first: the rates that learn from the outcome, and the class of the first draft;
            None for drafts that are certain.
        cost: the cost of each draft.
    """

    acceptance: tuple[float, ...] = ()
    make: Callable[[int], list[int]] = lambda _: []
    rates: AcceptanceRates | None = None
    first: int = 0
    cost: float = 0.0


@dataclass(frozen=True)
class _Sent:
    """Drafts in the present pass, and the time that they add."""

    drafts: list[int]
    extra: float
    source: _Source
    is_checked: bool  # whether the pass read them; otherwise only the outcome is of interest


class Drafter:
    """Drafts for one sequence, from its text, a prediction, its constraint or a draft model.

    Attributes:
        budget: the time that this sequence may lose.
    """

    def __init__(
        self,
        rates: Rates,
        context: Sequence[int] = (),
        prediction: Sequence[int] = (),
        reader: DraftReader | None = None,
    ) -> None:
        """Prepare drafts.

        Args:
            rates: what was learned about drafts.
            context: the tokens that the model has read before, as far as they are known.
            prediction: tokens that the reply may contain, from its beginning on.
            reader: reads the sequence with a draft model.
        """
        self.budget = TimeBudget()
        self._rates = rates
        self._automaton = SuffixAutomaton()
        between = (BREAK,) if prediction else ()
        self._unread = [*prediction, *between, *context]  # not in the automaton yet
        self._prediction = list(prediction)
        self._predicted: int | None = 0 if prediction else None
        self._reader = reader
        self._failures, self._pauses_until = 0, 0
        self._n_known = 0
        self._source = _Source()
        self._sent: _Sent | None = None

    def offer(self, sequence: RunningSequence, most: int, model_cost: float) -> Offer:
        """Return the drafts that the sequence could send, after `update`.

        Args:
            sequence: the sequence.
            most: the largest number of drafts.
            model_cost: the cost of a draft of the draft model.
        """
        most = min(most, sequence.remaining - 1)
        self._source = self._choose_source(sequence, most, model_cost) if most > 0 else _Source()
        return Offer(self._source.acceptance, self.budget, self._source.cost)

    def send(self, sequence: RunningSequence, count: int, extra: float) -> list[int]:
        """Return at most `count` drafts for the next pass, which will read them.

        Args:
            sequence: the sequence.
            count: the number of drafts; 0 sends none.
            extra: the time that they add to the pass, in plain tokens.
        """
        drafts = self._possible(sequence, self._source.make(count)) if count else []
        sequence.draft_counts.passes += 1
        sequence.draft_counts.drafted += len(drafts)
        if drafts:
            self._sent = _Sent(drafts, extra, self._source, is_checked=True)
        else:  # a guess costs nothing if it comes from text, and its outcome is worth knowing
            is_free = self._source.cost == 0 and self._source.rates is not None
            guess = self._source.make(1) if is_free else []
            self._sent = _Sent(guess, extra if count else 0.0, self._source, is_checked=False)
        return drafts

    def update(self, sequence: RunningSequence) -> tuple[float, int]:
        """Learn which drafts were accepted, from the tokens sampled since the last call.

        Returns:
            The extra time of the last pass, and the number of its tokens; (0, 0) without a pass.
        """
        sampled = sequence.token_ids
        new = sampled[self._n_known :]
        if not new:
            return 0.0, 0
        self._n_known = len(sampled)
        self._follow_prediction(new)
        self._unread += new
        self._automaton.extend(self._unread[:TOKENS_AT_ONCE])
        del self._unread[:TOKENS_AT_ONCE]
        if self._sent is None:  # the first token after the prompt
            return 0.0, 0
        sent, self._sent = self._sent, None
        accepted = self._learn(sent, new)
        if sent.is_checked:
            sequence.draft_counts.accepted += accepted
            if sent.source.cost:
                self._count_failure(accepted >= sent.extra)
        self.budget.spend(sent.extra, len(new))
        return sent.extra, len(new)

    def _learn(self, sent: _Sent, new: Sequence[int]) -> int:
        """Record the outcome of each draft up to the first wrong one; returns the right ones."""
        accepted, rates = 0, sent.source.rates
        for place, (draft, token) in enumerate(zip(sent.drafts, new, strict=False)):
            is_right = draft == token
            if rates is not None:
                rates.record(sent.source.first + place, is_right)
            if not is_right:
                break
            accepted += 1
        return accepted

    def _choose_source(self, sequence: RunningSequence, most: int, model_cost: float) -> _Source:
        sampled = sequence.token_ids
        guide = sequence.draft_guide
        if guide is not None and (certain := guide.certain(sampled, most)):
            return _Source((1.0,) * len(certain), lambda count: certain[:count])
        predicted = self._predicted
        if predicted is not None and predicted < len(self._prediction):
            following = self._prediction[predicted : predicted + most]
            return self._from(self._rates.prediction, predicted, lambda k: following[:k], most)
        match = self._automaton.match
        asks_model = self._reader is not None and match < MODEL_BELOW_MATCH
        if asks_model and len(sampled) >= self._pauses_until:
            reader = self._reader
            assert reader is not None
            if reader.is_ready(sampled):
                return self._from(
                    self._rates.place, 0, lambda k: reader.draft(sequence, k), most, model_cost
                )
        if not match or self._unread:
            return _Source()
        return self._from(self._rates.match, match, self._automaton.draft, most)

    @staticmethod
    def _from(
        rates: AcceptanceRates,
        first: int,
        make: Callable[[int], list[int]],
        most: int,
        cost: float = 0.0,
    ) -> _Source:
        acceptance, product = [], 1.0
        for place in range(most):
            rate = rates.rate(first + place)
            product *= rate
            if product < MIN_PRODUCT:
                break
            acceptance.append(rate)
        return _Source(tuple(acceptance), make, rates, first, cost)

    def _possible(self, sequence: RunningSequence, drafts: Sequence[int]) -> list[int]:
        """Return the drafts before the first one that cannot be sampled."""
        impossible = {BREAK, sequence.end_of_text, *sequence.sampler.sampling.banned}
        at = next((i for i, token in enumerate(drafts) if token in impossible), len(drafts))
        possible = list(drafts[:at])
        guide = sequence.draft_guide
        if possible and guide is not None:
            possible = guide.cut(sequence.token_ids, possible)
        return possible

    def _follow_prediction(self, new: Sequence[int]) -> None:
        """Advance in the prediction while it is right; later parts are found by their text."""
        for token in new:
            at = self._predicted
            if at is None or at >= len(self._prediction) or self._prediction[at] != token:
                self._predicted = None
                return
            self._predicted = at + 1

    def _count_failure(self, has_paid: bool) -> None:
        """Pause the draft model after several drafts that took longer than they saved."""
        self._failures = 0 if has_paid else self._failures + 1
        if self._failures >= MAX_FAILURES:
            self._pauses_until = self._n_known + PAUSE_TOKENS
            self._failures = MAX_FAILURES - 1  # a single trial after the pause
