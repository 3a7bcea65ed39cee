"""The tokenizer of RWKV's models for sheet music in ABC notation, in which each id is a character.

Models for MIDI have a `tokenizer.json`, tokenizer-midi.json, whose words are the events that
str_to_midi.py of MIDI-LLM-tokenizer reads; `library.LibraryTokenizer` reads it.
Source: ChatRWKV, music/run.py.
"""

from collections.abc import Iterable

from wkv.errors import TokenizerError
from wkv.tokenizers.interface import bytes_of_ids, text_to_bytes

ABC_VOCAB_SIZE = 128

PADDING, BEGIN, END = 0, 2, 3
"""Ids without text: 0 is unused, 2 begins a piece, 3 ends it."""


class AbcTokenizer:
    """A tokenizer whose ids are ASCII codes.

    Attributes:
        name: "abc".
        vocab_size: 128, or the model's if that is larger; the additional ids have no text.
        n_tokens: 124, the ids that have a text.
        end_of_text: 3.
        begins_with: the ids before the first text, 2.
    """

    name = "abc"
    n_tokens = ABC_VOCAB_SIZE - END - 1
    end_of_text: int | None = END
    begins_with = (BEGIN,)

    def __init__(self, vocab_size: int = 0) -> None:
        self.vocab_size = max(ABC_VOCAB_SIZE, vocab_size)
        codes = range(END + 1, ABC_VOCAB_SIZE)
        self._bytes_of_id = [b""] * (END + 1) + [bytes([code]) for code in codes]
        self._bytes_of_id += [b""] * (self.vocab_size - ABC_VOCAB_SIZE)

    def encode(self, text: str | bytes) -> list[int]:
        """Return the codes of a text.

        Raises:
            TokenizerError: if it contains anything but ASCII.
        """
        codes = list(text_to_bytes(text))
        for position, code in enumerate(codes):
            if not END < code < ABC_VOCAB_SIZE:
                raise TokenizerError(
                    f"byte {code} at position {position} is not ASCII text, and this model knows "
                    "nothing else; write the notes in ABC notation"
                )
        return codes

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the characters of ids; ids up to 3 and from 128 have none."""
        return bytes_of_ids(ids, self._bytes_of_id)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids."""
        return self.decode_bytes(ids).decode("ascii")
