"""The state of a batch whose rows come and go.

Each model call returns new tensors, which only the batch uses. So rows can be moved and replaced in
them: a sequence that ends and one that starts in the same step copy one row each, not all rows.
Rows in the memory of an engine are never copied; only their logits are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from wkv.models.state import EngineLayers, State


class BatchState:
    """The state of all rows, with logits.

    Attributes:
        state: the state; None while there are no rows.
    """

    def __init__(self) -> None:
        self.state: State | None = None
        # The tensors of `state`, with room for removed rows; None if they must not be changed.
        self._memory: State | None = None

    def update(self, state: State) -> None:
        """Replace the state by the result of a model call, which nobody else uses."""
        self.state, self._memory = state, _own(state)

    def replace(self, rows: Mapping[int, int], source: State) -> None:
        """Replace some rows, which a model call has given, by rows of another state.

        Args:
            rows: by the number of a row, the number of the row of `source` that replaces it.
            source: the other state.
        """
        assert self.state is not None
        if self._memory is None:
            size = self.state.batch_size
            order = [size + rows[row] if row in rows else row for row in range(size)]
            self.state = State.stack([self.state, source]).rows(order)
            return
        for row, other in rows.items():
            self._write(slice(row, row + 1), _view(source, slice(other, other + 1)))
        seen = list(self.state.tokens_seen)
        for row, other in rows.items():
            seen[row] = source.tokens_seen[other]
        self._shrink(seen, self.state.row_adapters)

    def append(self, states: Sequence[State]) -> None:
        """Add rows at the end; the given states are not changed."""
        if not states:
            return
        count = sum(state.batch_size for state in states)
        size = 0 if self.state is None else self.state.batch_size
        if self._memory is None or self._memory.batch_size < size + count:
            together = [*([] if self.state is None else [self.state]), *states]
            self.state = State.stack(together) if len(together) > 1 else together[0]
            # A single state belongs to the caller, so its tensors must not be changed.
            self._memory = _own(self.state) if len(together) > 1 else None
            return
        seen = [] if self.state is None else list(self.state.tokens_seen)
        adapters = [] if self.state is None else list(self.state.row_adapters)
        for state in states:
            end = size + state.batch_size
            self._write(slice(size, end), state)
            seen += state.tokens_seen
            adapters += state.row_adapters
            size = end
        self._shrink(seen, adapters)

    def remove(self, rows: Sequence[int]) -> tuple[list[State], list[int]]:
        """Remove rows.

        Returns:
            The removed states, one row each; and the old number of each row that is left.
        """
        if not rows:
            return [], [] if self.state is None else list(range(self.state.batch_size))
        assert self.state is not None
        states = [self.state.rows([row]) for row in rows]
        gone = set(rows)
        left = [row for row in range(self.state.batch_size) if row not in gone]
        if self._memory is None:
            self.state = self.state.rows(left) if left else None
            return states, left
        # Rows from the end take the places of the removed ones.
        holes = [row for row in sorted(gone) if row < len(left)]
        moved = dict(zip(holes, left[len(left) - len(holes) :], strict=True))
        for hole, row in moved.items():
            self._write(slice(hole, hole + 1), _view(self.state, slice(row, row + 1)))
        order = [moved.get(row, row) for row in range(len(left))]
        adapters = self.state.row_adapters
        self._shrink(
            [self.state.tokens_seen[row] for row in order], [adapters[row] for row in order]
        )
        return states, order

    def _shrink(self, tokens_seen: Sequence[int], adapters: Sequence[str]) -> None:
        """Let `state` be the first rows of the memory."""
        assert self._memory is not None
        if not tokens_seen:
            self.state = None
            return
        view = _view(self._memory, slice(0, len(tokens_seen)))
        used = tuple(adapters) if any(adapters) else ()
        self.state = replace(view, tokens_seen=tuple(tokens_seen), adapters=used)

    def _write(self, rows: slice, state: State) -> None:
        """Copy a state into rows of the memory."""
        assert self._memory is not None
        for to, layer in zip(self._memory.layers, state.layers, strict=True):
            to.att_shift[rows] = layer.att_shift
            to.wkv[rows] = layer.wkv
            to.ffn_shift[rows] = layer.ffn_shift
        if self._memory.logits is not None and state.logits is not None:
            self._memory.logits[rows] = state.logits


def _own(state: State) -> State | None:
    """Return a state that only the batch uses if its tensors can be changed, otherwise None."""
    return None if isinstance(state.layers, EngineLayers) else state


def _view(state: State, rows: slice) -> State:
    """Return rows of a state that share its memory."""
    return replace(
        state,
        layers=tuple(layer.map(lambda tensor: tensor[rows]) for layer in state.layers),
        tokens_seen=state.tokens_seen[rows],
        adapters=state.adapters[rows],
        logits=None if state.logits is None else state.logits[rows],
    )
