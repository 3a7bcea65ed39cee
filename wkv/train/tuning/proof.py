"""Measurements before and after training, and again from the saved result.

Held-out documents show what was learned, a general text and the held-out part of mixed data show
what was forgotten. For a state, the answers after several other turns show how long it lasts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from wkv.models.parts import Skeleton
from wkv.tokenizers import Tokenizer
from wkv.train.data import END_OF_TEXT
from wkv.train.examples.encode import Document
from wkv.train.examples.rows import joined
from wkv.train.tuning.measure import Layers, Measured, bits_per_byte, measure

GENERAL = Path(__file__).with_name("general.txt")
"""Paragraphs of prose, dialogue, arithmetic, code and Chinese."""

TURNS = (0, 1, 2, 4, 8)
"""Numbers of turns before an answer at which a state is examined."""

MAX_EXAMINED = 40
"""Number of answers that are examined for each number of turns."""

FORGOTTEN = 0.02
"""Relative increase of the loss of the general text that is mentioned."""


@dataclass(frozen=True)
class Proof:
    """Measurements of a model at one time.

    Attributes:
        held_out: of documents that are not learned.
        general: bits per byte of the general text.
        mixed: of the held-out documents of mixed data, or None.
        by_turns: of answers after each number of TURNS, or empty.
    """

    held_out: Measured
    general: float
    mixed: Measured | None = None
    by_turns: dict[int, Measured] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Return the measurements as JSON values."""
        return asdict(self)

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> "Proof":
        """Return the measurements that `record` returned."""
        mixed = record["mixed"]
        return cls(
            Measured(**record["held_out"]),
            record["general"],
            None if mixed is None else Measured(**mixed),
            {int(turns): Measured(**one) for turns, one in record["by_turns"].items()},
        )

    def describe(self) -> str:
        """Describe the measurements in a line."""
        text = f"held-out {self.held_out.describe()}; general text {self.general:.3f} bits per byte"
        return text if self.mixed is None else f"{text}; mixed data {self.mixed.describe()}"


@dataclass(frozen=True)
class Examination:
    """The documents that are measured.

    Attributes:
        held_out: documents that are not learned.
        general: the general text.
        general_bytes: its size.
        mixed: held-out documents of mixed data.
        by_turns: answers after each number of other turns.
    """

    held_out: Sequence[Document]
    general: Document
    general_bytes: int
    mixed: Sequence[Document] = ()
    by_turns: dict[int, list[Document]] = field(default_factory=dict)

    def of(self, network: Skeleton, layers: Layers) -> Proof:
        """Measure a network."""
        general = measure(network, layers, [self.general])
        return Proof(
            measure(network, layers, self.held_out),
            bits_per_byte(general, self.general_bytes),
            measure(network, layers, self.mixed) if self.mixed else None,
            {turns: measure(network, layers, found) for turns, found in self.by_turns.items()},
        )


def examination(
    tokenizer: Tokenizer,
    held_out: Sequence[Document],
    mixed: Sequence[Document],
    *,
    begins: bool,
    with_turns: bool,
) -> Examination:
    """Choose the documents that are measured.

    Args:
        tokenizer: the model's tokenizer.
        held_out, mixed: held-out documents.
        begins: whether documents begin with end-of-text.
        with_turns: whether to examine answers after other turns.
    """
    text = GENERAL.read_bytes()
    ids = [*([END_OF_TEXT] if begins else []), *tokenizer.encode(text)]
    general = Document(ids, [1.0] * len(ids))
    answered = [document for document in held_out if document.answers]
    turns = _after_turns(answered) if with_turns and len(answered) > max(TURNS) else {}
    return Examination(held_out, general, len(text), mixed, turns)


def _after_turns(documents: Sequence[Document]) -> dict[int, list[Document]]:
    """Return documents behind each number of others, of which only the last answer counts."""
    random = Random("turns")
    found: dict[int, list[Document]] = {}
    for turns in TURNS:
        found[turns] = []
        for document in documents[:MAX_EXAMINED]:
            others = [one for one in documents if one is not document]
            whole = joined([*random.sample(others, turns), document])
            first, end = whole.answers[-1]
            weights = [float(first <= place < end) for place in range(len(whole.ids))]
            found[turns].append(Document(whole.ids, weights, ((first, end),)))
    return found


def turns_table(before: Proof, after: Proof) -> str:
    """Return a Markdown table of how long a state lasts."""
    lines = [
        "| other turns before | loss before | loss after | exact before | exact after |",
        "|---|---|---|---|---|",
    ]
    for turns, old in before.by_turns.items():
        new = after.by_turns[turns]
        exact = " | ".join(
            "-" if one.exact is None else f"{100 * one.exact:.0f} %" for one in (old, new)
        )
        lines.append(f"| {turns} | {old.loss:.3f} | {new.loss:.3f} | {exact} |")
    return "\n".join(lines)


def forgotten(before: Proof, after: Proof) -> str | None:
    """Return what became worse, or None."""
    worse = []
    if after.general > (1 + FORGOTTEN) * before.general:
        worse.append(f"general text {100 * (after.general / before.general - 1):+.0f} %")
    if before.mixed is not None and after.mixed is not None:
        old, new = before.mixed, after.mixed
        if new.loss > (1 + FORGOTTEN) * old.loss:
            worse.append(f"mixed data {old.loss:.3f} to {new.loss:.3f}")
        if old.exact is not None and new.exact is not None and new.exact < old.exact - FORGOTTEN:
            worse.append(f"its exact answers {100 * old.exact:.0f} to {100 * new.exact:.0f} %")
    return "; ".join(worse) or None
