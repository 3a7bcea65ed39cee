"""Convert documents to ids with a weight for each id.

A document is encoded as a whole, because a token may reach over the boundary of two pieces. An
id has the weight of the piece in which its first byte lies.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

from wkv.errors import InputError
from wkv.tokenizers import Tokenizer
from wkv.train.data import END_OF_TEXT
from wkv.train.examples.render import Exchange, Piece


@dataclass(frozen=True)
class Document:
    """An encoded document.

    Attributes:
        ids: the ids, with end-of-text at the beginning and the end where the model expects it.
        weights: the weight of each id as a target.
        answers: the first id of each answer, and the id after its last one.
        where: the file and the line.
        is_joined: whether a token reaches over the beginning of an answer, so that the prompt is
            encoded differently at use.
    """

    ids: list[int]
    weights: list[float]
    answers: tuple[tuple[int, int], ...] = ()
    where: str = ""
    is_joined: bool = False

    @property
    def prompt_key(self) -> str:
        """A digest of the ids before the first answer, or of all ids without answers."""
        end = self.answers[0][0] if self.answers else len(self.ids)
        return _digest(self.ids[:end])

    @property
    def key(self) -> str:
        """A digest of all ids."""
        return _digest(self.ids)

    def body(self) -> "Document":
        """Return the document without end-of-text at its beginning and end."""
        start = int(self.ids[:1] == [END_OF_TEXT])
        end = len(self.ids) - int(len(self.ids) > 1 and self.ids[-1] == END_OF_TEXT)
        answers = tuple((first - start, last - start) for first, last in self.answers)
        return Document(self.ids[start:end], self.weights[start:end], answers, self.where)


@dataclass
class Encoder:
    """Encodes documents for a model.

    Attributes:
        tokenizer: the model's tokenizer.
        begins: whether a document begins with end-of-text, which is not learned.
        ends: whether a document ends with end-of-text, which is learned.
    """

    tokenizer: Tokenizer
    begins: bool
    ends: bool
    _sizes: dict[int, int] = field(default_factory=dict)

    def encode(self, exchanges: Sequence[Exchange], where: str) -> Document:
        """Encode a document, or a part of it.

        Raises:
            InputError: if the text contains a character that cannot be encoded.
        """
        pieces = list(chain(*exchanges))
        try:
            ids, weights, answers, is_joined = self._encode(pieces)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        if self.begins:
            ids, weights = [END_OF_TEXT, *ids], [0.0, *weights]
            answers = [(first + 1, last + 1) for first, last in answers]
        if self.ends and ids[-1] != END_OF_TEXT:
            ids, weights = [*ids, END_OF_TEXT], [*weights, pieces[-1].weight]
        return Document(ids, weights, tuple(answers), where, is_joined)

    def _encode(
        self, pieces: Sequence[Piece]
    ) -> tuple[list[int], list[float], list[tuple[int, int]], bool]:
        """Return ids, weights, answers, and whether a token reaches into an answer."""
        texts = [piece.text.encode() for piece in pieces]
        ids = self.tokenizer.encode("".join(piece.text for piece in pieces))
        starts, position = [], 0
        for token in ids:
            starts.append(position)
            position += self._size(token)
        if position != sum(map(len, texts)):  # the tokenizer changes texts, such as their blanks
            return self._encode_apart(pieces)
        weights, answers, is_joined = [], [], False
        at, begin = 0, 0
        for piece, text in zip(pieces, texts, strict=True):
            first, end = at, begin + len(text)
            while at < len(ids) and starts[at] < end:
                at += 1
            weights += [piece.weight] * (at - first)
            if piece.is_answer and at > first:
                answers.append((first, at))
                is_joined |= starts[first] != begin
            begin = end
        return ids, weights, answers, is_joined

    def _encode_apart(
        self, pieces: Sequence[Piece]
    ) -> tuple[list[int], list[float], list[tuple[int, int]], bool]:
        """Encode each piece alone."""
        ids: list[int] = []
        weights: list[float] = []
        answers = []
        for piece in pieces:
            new = self.tokenizer.encode(piece.text)
            if piece.is_answer and new:
                answers.append((len(ids), len(ids) + len(new)))
            ids += new
            weights += [piece.weight] * len(new)
        return ids, weights, answers, False

    def _size(self, token: int) -> int:
        """Return the number of bytes of a token."""
        if token not in self._sizes:
            self._sizes[token] = len(self.tokenizer.decode_bytes([token]))
        return self._sizes[token]


def in_context(
    encoder: Encoder, exchanges: Sequence[Exchange], where: str, context: int
) -> list[Document]:
    """Encode a document in parts of at most `context` + 1 ids, divided between exchanges.

    A system message is repeated at the beginning of each part. An exchange that is too long for the
    context is left out.
    """
    whole = encoder.encode(exchanges, where)
    if len(whole.ids) <= context + 1:
        return [whole]
    first = exchanges[0][0]
    system = (first,) if len(exchanges[0]) > 2 and not first.is_answer else ()
    parts: list[Document] = []
    group: list[Exchange] = []
    for number, exchange in enumerate(exchanges):
        alone = exchange if number == 0 else (*system, *exchange)
        if group:
            longer = encoder.encode([*group, exchange], where)
            if len(longer.ids) <= context + 1:
                group.append(exchange)
                continue
            parts.append(encoder.encode(group, where))
            group = []
        if len(encoder.encode([alone], where).ids) <= context + 1:
            group = [alone]
    return [*parts, encoder.encode(group, where)] if group else parts


def _digest(ids: Sequence[int]) -> str:
    return hashlib.sha256(repr(list(ids)).encode()).hexdigest()[:16]
