"""Recorded texts for the measurement of speculative decoding: chat, prose, quoting, editing code.

A model that would write exactly these texts accepts the drafts that are their tokens. They were
written for this project, or are made from its own files.
"""

from pathlib import Path

from wkv.bench.drafts import DraftText, never_repeated
from wkv.tokenizers.world import WorldTokenizer

HERE = Path(__file__).parent
DOCUMENT = HERE.parent / "docs" / "conventions.md"
SOURCE = HERE.parent / "wkv" / "inference" / "prefill.py"

RENAMED = {"prompts": "texts", "progress": "on_progress", "seconds": "duration", "rows": "lines"}
"""The edit that is made to a file: names, and the names that replace them."""

REPLY = "\n\nAssistant:"


def recorded_texts() -> tuple[DraftText, ...]:
    """Return the texts in tokens of the World vocabulary."""
    chat = (HERE / "texts" / "chat.txt").read_text(encoding="utf-8")
    prose = (HERE / "texts" / "prose.txt").read_text(encoding="utf-8")
    question, _, answers = chat.partition(REPLY)
    beginning, _, story = prose.partition("\n\n")
    return (
        _text("chat", question + REPLY, answers),
        _text("prose", beginning, "\n\n" + story),
        _quoting(),
        _editing(),
        DraftText("never right", tuple(never_repeated(144))),
    )


def _quoting() -> DraftText:
    """Return an answer that quotes a document, each passage after a sentence of its own."""
    document = DOCUMENT.read_text(encoding="utf-8")
    paragraphs = [one for one in document.split("\n\n") if len(one.split()) > 20]
    own = (HERE / "texts" / "prose.txt").read_text(encoding="utf-8").split(". ")
    answer = [f"{own[i]}. The document says: {one}" for i, one in enumerate(paragraphs[:8])]
    return _text("quoting", document + REPLY, "\n\n".join(answer))


def _editing() -> DraftText:
    """Return a source file of this project in which some names were replaced."""
    source = SOURCE.read_text(encoding="utf-8")
    edited = source
    for name, other in RENAMED.items():
        edited = edited.replace(name, other)
    return _text("editing", source + REPLY, edited)


def _text(name: str, context: str, reply: str) -> DraftText:
    tokenizer = WorldTokenizer()
    return DraftText(name, tuple(tokenizer.encode(reply)), tuple(tokenizer.encode(context)))
