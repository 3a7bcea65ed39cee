"""A suffix automaton: finds the longest suffix of a text that has occurred before, token by token.

A state of the automaton stands for the substrings that end at the same positions. Its link leads to
the longest suffix of them that also ends elsewhere. Adding a token takes amortized constant time.

Sources: Blumer et al. 1985, The smallest automaton recognizing the subwords of a text; its use for
drafts: Hu et al. 2025, SAM Decoding.
"""

from array import array
from collections.abc import Iterable, Iterator

ROOT, NONE = 0, -1


class SuffixAutomaton:
    """The text so far, and the latest earlier occurrence of its longest repeated suffix.

    Most states have one transition, so the first one of each state is stored in arrays, and only
    the others in dictionaries.

    Attributes:
        text: the tokens.
        match: the length of the longest suffix that has occurred before; 0 without one.
    """

    def __init__(self) -> None:
        self.text = array("i")
        self.match = 0
        self._source = NONE  # the position at which the other occurrence ends
        self._matched = ROOT  # the state of the matched suffix
        self._whole = ROOT  # the state of the whole text
        self._length, self._link, self._end = (
            array("i", [0]),
            array("i", [NONE]),
            array("i", [NONE]),
        )
        self._token, self._target = array("i", [NONE]), array("i", [NONE])
        self._more: dict[int, dict[int, int]] = {}

    @property
    def n_states(self) -> int:
        """The number of states, less than twice the number of tokens."""
        return len(self._length)

    def extend(self, tokens: Iterable[int]) -> None:
        """Add tokens to the text."""
        for token in tokens:
            self.push(token)

    def push(self, token: int) -> None:
        """Add a token (0 or more) to the text."""
        self._follow(token)  # in the automaton of the text before the token
        self._grow(token)
        while self._matched and self.match <= self._length[self._link[self._matched]]:
            self._matched = self._link[self._matched]  # its state was split
        self._source = self._end[self._matched] if self.match else NONE
        if self.match:
            self._end[self._matched] = len(self.text) - 1  # the latest occurrence, for next time

    def draft(self, most: int) -> list[int]:
        """Return up to `most` tokens that followed the other occurrence.

        If that runs into the end of the text, it continues periodically.
        """
        if not self.match or most < 1:
            return []
        start = self._source + 1
        period = len(self.text) - start
        following = self.text[start : start + most].tolist()
        return [following[i % period] for i in range(most)]

    def _next(self, state: int, token: int) -> int:
        if self._token[state] == token:
            return self._target[state]
        more = self._more.get(state)
        return NONE if more is None else more.get(token, NONE)

    def _connect(self, state: int, token: int, target: int) -> None:
        if self._token[state] in (NONE, token):
            self._token[state], self._target[state] = token, target
        else:
            self._more.setdefault(state, {})[token] = target

    def _follow(self, token: int) -> None:
        """Lengthen the matched suffix by a token, or shorten it until that is possible."""
        state = self._matched
        while (target := self._next(state, token)) == NONE and state:
            state = self._link[state]
            self.match = self._length[state]
        self._matched = ROOT if target == NONE else target
        self.match = 0 if target == NONE else self.match + 1

    def _add_state(self, length: int, link: int, end: int) -> int:
        self._length.append(length)
        self._link.append(link)
        self._end.append(end)
        self._token.append(NONE)
        self._target.append(NONE)
        return len(self._length) - 1

    def _ancestors(self, state: int) -> Iterator[int]:
        while state != NONE:
            yield state
            state = self._link[state]

    def _grow(self, token: int) -> None:
        new = self._add_state(self._length[self._whole] + 1, ROOT, len(self.text))
        self.text.append(token)
        for state in self._ancestors(self._whole):
            target = self._next(state, token)
            if target != NONE:
                is_solid = self._length[target] == self._length[state] + 1
                self._link[new] = target if is_solid else self._split(state, token, target)
                break
            self._connect(state, token, new)
        self._whole = new

    def _split(self, state: int, token: int, old: int) -> int:
        """Separate the substrings of `old` that also end at the new token."""
        copy = self._add_state(self._length[state] + 1, self._link[old], self._end[old])
        self._token[copy], self._target[copy] = self._token[old], self._target[old]
        if old in self._more:
            self._more[copy] = dict(self._more[old])
        self._link[old] = copy
        for other in self._ancestors(state):
            if self._next(other, token) != old:
                break
            self._connect(other, token, copy)
        return copy
