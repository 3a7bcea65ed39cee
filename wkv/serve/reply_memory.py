"""What the server said, by what it had read before.

So a reply that comes back in a conversation's history is known by the very ids that were drawn,
its state is found, and nothing is read again.
"""

import hashlib
from dataclasses import dataclass

from wkv.inference.model import Model
from wkv.serve.key_value_store import KeyValueStore

SAMPLE = "A quick brown fox jumps over lazy dogs. 0123456789 \n\nUser: 你好，世界！ {}[]()=_<>/"
"""A text that different vocabularies hardly make the same ids of."""


@dataclass(frozen=True)
class Said:
    """A reply as the model's state knows it.

    Attributes:
        ids: of the turn before it, with the name of the speaker, and of the reply.
        ahead: what they hold beyond the reply's text: the separator, the next speaker.
    """

    ids: tuple[int, ...]
    ahead: str


class Replies:
    """A memory of replies."""

    def __init__(self, values: KeyValueStore, model: str) -> None:
        """Remember in `values` what a model said, by what `speaker` gives for it."""
        self._values = values
        self._model = model

    def remember(self, tenant: str, before: bytes, turn: str, reply: str, said: Said) -> None:
        """Remember what was said after ids, by their digest, and the text of a turn."""
        key = self._key(tenant, before, turn, reply)
        self._values.put(key, {"ids": said.ids, "ahead": said.ahead})

    def recall(self, tenant: str, before: bytes, turn: str, reply: str) -> Said | None:
        """What was said there, if it was this reply."""
        value = self._values.get(self._key(tenant, before, turn, reply))
        return value and Said(tuple(value["ids"]), value["ahead"])

    def _key(self, tenant: str, before: bytes, turn: str, reply: str) -> str:
        digest = hashlib.sha256(before)
        for text in (self._model, tenant, turn, reply):
            data = text.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "little") + data)
        return digest.hexdigest()


def speaker(model: Model) -> str:
    """A model and its tokenizer: ids mean nothing to another."""
    tokenizer = model.tokenizer
    sample = tokenizer.encode(SAMPLE)
    return f"{model.identity} {tokenizer.name} {tokenizer.vocab_size} {sample}"
