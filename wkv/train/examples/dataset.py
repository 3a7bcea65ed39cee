"""Read a data set for fine-tuning: recognize its format, encode it and hold documents out.

Conversations become one row each. Prose and ids, of which everything is learned, are joined to one
sequence with end-of-text between documents, and cut into windows anew in each epoch.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import numpy as np

from wkv.errors import InputError, TrainingError
from wkv.files import read_text
from wkv.train.data import END_OF_TEXT, Prose, Row, RowSource, split_off
from wkv.train.examples.conversations import Example, example_of, recognize
from wkv.train.examples.encode import Document, Encoder, in_context
from wkv.train.examples.records import (
    JSON_SUFFIXES,
    Record,
    is_json,
    read_json,
    read_parquet,
)
from wkv.train.examples.render import Style, exchanges_of
from wkv.train.examples.rows import DocumentRows
from wkv.train.examples.token_files import binidx_pair, read_array, read_binidx

READABLE = (".txt", ".parquet", *JSON_SUFFIXES)
"""The endings of files that are read from a folder."""

OWN_FILES = ("log.jsonl", "report.json", "adapter_config.json")
"""Files of a run, which may be in the same folder as the data."""

BOUNDARY = "<|endoftext|>"
"""A line that separates documents in a text file."""

MAX_HELD_OUT = 500
"""The largest number of held-out documents, unless they are a file of their own."""

MIN_WINDOWS = 8
"""Prose is cut into at least this number of windows; for short texts the context is smaller."""


@dataclass(frozen=True)
class DataOptions:
    """The options of reading a data set.

    Attributes:
        encoder: encodes documents for the model.
        style: how conversations are written.
        context: largest number of tokens of a row.
        format: "auto", or the form of the records, see `conversations.py`.
        hold_out: the share of held-out documents, or a file of documents.
        system: a system message for conversations without one.
        seed: seed of the choice of held-out documents.
    """

    encoder: Encoder
    style: Style
    context: int
    format: str = "auto"
    hold_out: float | Path = 0.05
    system: str = ""
    seed: int = 0


@dataclass
class Counts:
    """The numbers of documents that were found, left out and kept."""

    found: int = 0
    repeated: int = 0
    too_long: int = 0
    shared: int = 0
    joined: int = 0
    tokens: int = 0
    learned: int = 0


@dataclass
class Dataset:
    """A data set that was read.

    Attributes:
        name: the name of the file or folder.
        form: the recognized format.
        training: documents to learn.
        held_out: documents that are never learned.
        prose: the ids of texts, if the data has no answers.
        context: largest number of tokens of a row.
        counts: what happened to the documents.
        fingerprint: a checksum of everything above.
    """

    name: str
    form: str
    training: list[Document]
    held_out: list[Document]
    prose: np.ndarray | None
    context: int
    counts: Counts = field(default_factory=Counts)
    fingerprint: str = ""

    def rows(self, seed: int, rows: int, source: str, turns: int = 1) -> RowSource:
        """Return the source of training rows."""
        if self.prose is not None:
            return Prose([self.prose], self.context, seed, None)
        return DocumentRows(self.training, self.context, seed, rows, source, turns)

    @property
    def mean_tokens(self) -> float:
        """The mean number of tokens of a row."""
        if self.prose is not None:
            return float(self.context)
        return self.counts.tokens / max(1, len(self.training))

    @property
    def n_rows(self) -> int:
        """The number of rows of an epoch."""
        if self.prose is not None:
            return max(1, len(self.prose) // self.context)
        return len(self.training)


def read_dataset(path: Path, options: DataOptions) -> Dataset:
    """Read a data set.

    Raises:
        InputError: if a file cannot be read, or a record is wrong; names file, line and column.
        TrainingError: if too little is left to train on.
    """
    form, examples, ids = _read(path, options)
    if ids is None and any(example.turns for example in examples):
        return _of_answers(path, form, examples, options)
    if ids is None:
        with_answers = [len(exchanges_of(one, options.style)[0]) > 1 for one in examples]
        if any(with_answers):
            return _of_answers(path, form, examples, options)
        texts = [one.text for one in examples if one.text.strip()]
        ids = [np.array(options.encoder.tokenizer.encode(text)) for text in texts]
    return _of_prose(path, form, ids, options)


def _read(path: Path, options: DataOptions) -> tuple[str, list[Example], list[np.ndarray] | None]:
    """Return the recognized format, and the documents as examples or as ids."""
    pair = binidx_pair(path)
    if pair is not None and pair[0].read_bytes()[:7] == b"MMIDIDX":
        return "binidx", [], _checked_ids(path, read_binidx(*pair), options)
    if path.suffix in (".npy", ".bin") and path.is_file():
        return "ids", [], _checked_ids(path, [read_array(path)], options)
    paths = [path]
    if path.is_dir():
        found = [one for one in sorted(path.iterdir()) if one.suffix in READABLE]
        paths = [one for one in found if not one.name.endswith((".vocab.txt", *OWN_FILES))]
    if not paths:
        raise InputError(f"{path} contains no {', '.join(READABLE)} files; give a file of examples")
    forms: Counter[str] = Counter()
    examples: list[Example] = []
    for file in paths:
        form, more = _examples(file, options)
        forms[form] += len(more)
        examples += more
    if not examples:
        raise InputError(f"{path} is empty; give a file of examples")
    return " and ".join(forms), examples, None


def _examples(path: Path, options: DataOptions) -> tuple[str, list[Example]]:
    """Return the format and the documents of one file."""
    records: list[Record] | None = None
    if path.suffix == ".parquet":
        records = read_parquet(path)
    else:
        text = read_text(path)
        if options.format != "auto" or is_json(path, text):
            records = list(read_json(path, text))
    if records is None:
        return "text", [
            Example(f"{path}, document {number}", text=part.strip("\n"))
            for number, part in enumerate(_parts(text), 1)
        ]
    if not records:
        raise InputError(f"{path} contains no records; give one JSON object in each line")
    form = recognize(records[0]) if options.format == "auto" else options.format
    return form, [example_of(record, options.format, options.system) for record in records]


def _parts(text: str) -> list[str]:
    """Divide a text at the lines that separate documents."""
    parts: list[list[str]] = [[]]
    for line in text.split("\n"):
        if line.strip() == BOUNDARY:
            parts.append([])
        else:
            parts[-1].append(line)
    return [part for part in map("\n".join, parts) if part.strip()]


def _checked_ids(path: Path, documents: list[np.ndarray], options: DataOptions) -> list[np.ndarray]:
    """Check that all ids are in the vocabulary of the model."""
    most = options.encoder.tokenizer.vocab_size
    for number, ids in enumerate(documents, 1):
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < most:
            raise InputError(
                f"{path}, document {number}: an id is {int(ids.max())}, and the model has ids 0 to "
                f"{most - 1}; encode the data with the tokenizer of the model"
            )
    return [ids for ids in documents if len(ids)]


def _of_prose(path: Path, form: str, texts: Sequence[np.ndarray], options: DataOptions) -> Dataset:
    """Join texts to one sequence, and hold its end out."""
    ids = np.concatenate([np.append(text.astype(np.int64), END_OF_TEXT) for text in texts])
    context = min(options.context, len(ids) // (2 * MIN_WINDOWS))
    if context < 8:
        raise TrainingError(f"{path} has {len(ids)} tokens; give at least {16 * MIN_WINDOWS}")
    if isinstance(options.hold_out, Path):
        other = read_dataset(options.hold_out, replace(options, hold_out=0.0))
        rest, rows = ids, _windows(other, context)
    else:
        rest, rows = split_off(ids, context)
    held_out = [Document(list(row.ids), list(row.weights), where=str(path)) for row in rows]
    counts = Counts(found=len(texts), tokens=len(rest), learned=len(rest))
    return Dataset(path.name, form, [], held_out, rest, context, counts, _fingerprint([rest]))


def _windows(data: Dataset, context: int) -> list[Row]:
    """Return a data set as rows of at most `context` tokens."""
    if data.prose is None:
        return [Row(one.ids, one.weights, "held-out") for one in data.training]
    step = context + 1
    parts = [data.prose[start : start + step] for start in range(0, len(data.prose) - 1, step)]
    return [Row(part.tolist(), [1.0] * len(part), "held-out") for part in parts if len(part) > 1]


def _of_answers(
    path: Path, form: str, examples: Sequence[Example], options: DataOptions
) -> Dataset:
    """Encode conversations, remove repeated ones, and hold some out."""
    counts = Counts(found=len(examples))
    documents: dict[str, Document] = {}
    for example in examples:
        exchanges = exchanges_of(example, options.style)
        parts = in_context(options.encoder, exchanges, example.where, options.context)
        counts.too_long += not parts
        counts.repeated += bool(parts) and all(part.key in documents for part in parts)
        documents |= {part.key: part for part in parts}
    remaining = [one for one in documents.values() if any(one.weights[1:])]
    if isinstance(options.hold_out, Path):
        other = read_dataset(options.hold_out, replace(options, hold_out=0.0))
        held_out = other.training
    else:
        count = min(MAX_HELD_OUT, round(options.hold_out * len(remaining)))
        count = max(count, 1) if options.hold_out else 0
        held_out = Random(f"{options.seed}/held-out").sample(remaining, min(count, len(remaining)))
    prompts = {document.prompt_key for document in held_out}
    training = [one for one in remaining if one.prompt_key not in prompts]
    counts.shared = len(remaining) - len(training) - len(held_out)
    if isinstance(options.hold_out, Path):
        counts.shared += len(held_out)
    if not training or (options.hold_out and not held_out):
        raise TrainingError(
            f"{path}: of {counts.found} documents {len(training)} are left to learn and "
            f"{len(held_out)} are held out ({counts.repeated} are repeated and {counts.too_long} "
            "have an answer that is longer than --context); give more of them, a larger --context "
            "or --carry, or a file with --hold-out"
        )
    counts.joined = sum(document.is_joined for document in training)
    counts.tokens = sum(len(document.ids) for document in training)
    counts.learned = sum(weight > 0 for document in training for weight in document.weights)
    digest = _fingerprint([np.array(one.ids) for one in (*training, *held_out)])
    return Dataset(path.name, form, training, held_out, None, options.context, counts, digest)


def _fingerprint(arrays: Sequence[np.ndarray]) -> str:
    """Return a checksum of ids."""
    digest = hashlib.sha256()
    for ids in arrays:
        digest.update(np.ascontiguousarray(ids, dtype=np.int64).tobytes())
    return f"sha256:{digest.hexdigest()[:16]}"
