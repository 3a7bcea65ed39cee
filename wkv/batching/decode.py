"""Sequences that are being written: one token each at every step, all in one batch."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from wkv.batching.prefill import Reading
from wkv.batching.request import Ended, Piece, Request, Ticket, as_wkv_error, likeliest
from wkv.batching.state_cache import StateCache
from wkv.errors import InputError, WKVError
from wkv.inference.model import Model
from wkv.inference.sequence import Writer
from wkv.models.state import State

PATIENCE_SECONDS = 60.0
"""How long a sequence is kept for a reader who takes nothing."""


@dataclass(eq=False)
class Row:
    """A sequence being written.

    Attributes:
        ticket: whose it is.
        choice: its number among the ticket's.
        writer: draws its tokens and makes text of them.
        seen: tokens that its state had seen when its writing began.
    """

    ticket: Ticket
    choice: int
    writer: Writer
    seen: int


@dataclass(frozen=True)
class Aside:
    """The state of a sequence that was set aside, and since when it is."""

    state: State
    since: float


class Rows:
    """The sequences that are being written.

    Attributes:
        active: one for each row of the state.
        aside: those whose readers do not keep up.
        patience: seconds after which they are given up.
    """

    def __init__(self, model: Model, cache: StateCache, patience: float = PATIENCE_SECONDS) -> None:
        self.active: list[Row] = []
        self.aside: dict[Row, Aside] = {}
        self.patience = patience
        self._state: State | None = None
        self._model = model
        self._cache = cache

    def __len__(self) -> int:
        """Sequences, also those set aside."""
        return len(self.active) + len(self.aside)

    def add(self, readings: Sequence[Reading]) -> None:
        """Begin the choices of prompts that were read; at once, as joining copies all states."""
        rows: list[Row] = []
        states: list[State] = []
        for reading in readings:
            assert reading.state is not None
            ticket, seen = reading.ticket, reading.state.tokens_seen[0]
            for choice in range(ticket.request.choices):
                rows.append(Row(ticket, choice, self._writer(ticket.request, choice), seen))
                states.append(reading.state)
        if rows:
            self._join(rows, states)

    def step(self) -> bool:
        """Write a token of each sequence; false if there was nothing to write."""
        self._look_after_readers()
        if self._state is None:
            return False
        going_on = [place for place in range(len(self.active)) if self._advance(place)]
        self._keep_only(going_on)
        if self._state is not None:
            tokens = torch.tensor([[row.writer.token_ids[-1]] for row in self.active])
            _, self._state = self._model.forward(tokens, self._state)
        return True

    def drop(self, tickets: Iterable[Ticket]) -> None:
        """End the sequences of tickets; their states are kept as far as they came."""
        gone = set(tickets)
        for row in [row for row in self.aside if row.ticket in gone]:
            self._keep_state(row, self.aside.pop(row).state)
        for place, row in enumerate(self.active):
            if row.ticket in gone and self._state is not None:
                self._keep_state(row, self._state.rows([place]))
        self._keep_only([p for p, row in enumerate(self.active) if row.ticket not in gone])

    def tickets(self) -> set[Ticket]:
        """Whose sequences these are."""
        return {row.ticket for row in (*self.active, *self.aside)}

    def clear(self) -> None:
        """Forget all sequences and their states."""
        self.active, self.aside, self._state = [], {}, None

    def _writer(self, request: Request, choice: int) -> Writer:
        sampling = request.sampling
        if sampling.seed is not None:
            sampling = replace(sampling, seed=sampling.seed + choice)
        adjust = request.adjusts[choice] if request.adjusts else None
        tokenizer = self._model.tokenizer
        return Writer(tokenizer, sampling, request.max_tokens, request.stops, adjust)

    def _advance(self, place: int) -> bool:
        """Draw the next token of a sequence; false if it has ended."""
        row = self.active[place]
        writer, ticket = row.writer, row.ticket
        if ticket.is_cancelled:  # another of its choices has failed
            return False
        count = len(writer.token_ids)
        if writer.finish_reason is None:
            assert self._state is not None
            assert self._state.logits is not None
            logits = self._state.logits[place]
            try:
                text = writer.advance(logits)
            except Exception as error:  # whatever it is, it is this sequence's alone
                # Numbers that are none are no mistake of who asked.
                is_ours = not bool(torch.isfinite(logits).all())
                ticket.fail(WKVError(str(error)) if is_ours else as_wkv_error(error))
                return False
            if len(writer.token_ids) > count:
                token = writer.token_ids[-1]
                chances = ticket.request.chances
                drawn = None if chances is None else likeliest(logits, token, chances)
                ticket.send(Piece(row.choice, text, token, drawn))
            elif text:
                ticket.send(Piece(row.choice, text))
        if writer.finish_reason is None:
            return True
        assert self._state is not None
        self._end(row, self._state.rows([place]))
        return False

    def _end(self, row: Row, state: State) -> None:
        self._keep_state(row, state)
        ids = tuple(row.writer.token_ids)
        row.ticket.send(Ended(row.choice, row.writer.finish_reason or "", ids, state))

    def _keep_state(self, row: Row, state: State) -> None:
        """Put the state of a sequence that ends into the cache: the next turn goes on from it."""
        request = row.ticket.request
        written = state.tokens_seen[0] - row.seen
        if request.keeps and written > 0:
            ids = (*request.ids, *row.writer.token_ids[:written])
            self._cache.put(request.tenant, ids, state, lasting=True)

    def _look_after_readers(self) -> None:
        """Set sequences aside whose readers are behind, and take them back when they are not."""
        full = [place for place, row in enumerate(self.active) if row.ticket.is_full]
        for place in full:
            assert self._state is not None
            self.aside[self.active[place]] = Aside(self._state.rows([place]), time.monotonic())
        self._keep_only([p for p, row in enumerate(self.active) if not row.ticket.is_full])
        back = [row for row in self.aside if not row.ticket.is_behind]
        if back:
            self._join(back, [self.aside.pop(row).state for row in back])
        late = time.monotonic() - self.patience
        given_up = {row.ticket for row, aside in self.aside.items() if aside.since < late}
        for ticket in given_up:
            ticket.fail(InputError("nothing was read for too long; the answer was ended"))
        if given_up:
            self.drop(given_up)

    def _join(self, rows: list[Row], states: list[State]) -> None:
        before = [] if self._state is None else [self._state]
        together = [*before, *states]
        self._state = State.stack(together) if len(together) > 1 else together[0]
        self.active += rows

    def _keep_only(self, places: list[int]) -> None:
        if len(places) == len(self.active):
            return
        self.active = [self.active[place] for place in places]
        assert self._state is not None
        self._state = self._state.rows(places) if places else None
