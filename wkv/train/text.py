"""Prepare training on plain text: read it, create a vocabulary for it, and split it into rows."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wkv.errors import InputError, TrainingError
from wkv.files import read_text
from wkv.models.parts import Config
from wkv.tokenizers.world import WorldTokenizer
from wkv.train.data import END_OF_TEXT, Prose, split_off
from wkv.train.initialize import new_config
from wkv.train.initialize_older import older_config
from wkv.train.make_vocabulary import make_vocabulary
from wkv.train.run_folder import RunFolder
from wkv.train.scratch import Job
from wkv.train.settings import TrainingSettings, check_whole

JSON_LINES = (".jsonl", ".ndjson")
"""Extensions of files with one JSON object per line."""


def read_texts(data: Path) -> list[list[str]]:
    """Read a file, or all .txt and .jsonl files in a folder; returns the documents of each file.

    A plain text is one document. A file of JSON lines has one document per line, its "text".

    Raises:
        InputError: if a file cannot be read, or a JSON line has no text.
        TrainingError: if the folder contains no texts.
    """
    # The folder of texts may also be the folder of the run, whose files are not texts.
    paths = [data]
    if data.is_dir():
        paths = [
            path
            for path in sorted(data.iterdir())
            if path.suffix in (".txt", *JSON_LINES)
            and not path.name.endswith((".vocab.txt", "log.jsonl"))
        ]
    if not paths:
        raise TrainingError(
            f"{data} contains no .txt or .jsonl files; give a text file or a folder of text files"
        )
    return [_documents(path) for path in paths]


def _documents(path: Path) -> list[str]:
    """Return the documents of a file. JSON is recognized by its content, whatever its name is."""
    text = read_text(path)
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    first = lines[0][1] if lines else ""
    if path.suffix in JSON_LINES or isinstance(_parsed(first), dict):
        return [_text_of(line, f"{path}, line {number}") for number, line in lines]
    if path.suffix == ".json" or (first.lstrip()[:1] in ("{", "[") and _parsed(text) is not None):
        raise InputError(
            f"{path} is JSON; expected plain text, or JSON lines (.jsonl) in which every line is "
            'an object such as {"text": "..."}'
        )
    return [text]


def _text_of(line: str, where: str) -> str:
    """Return the "text" of a JSON line."""
    entry = _parsed(line)
    if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
        raise InputError(
            f'{where}: {line[:40]!r} has no "text"; expected JSON such as {{"text": "..."}} in '
            "each line, or a file of plain text"
        )
    return str(entry["text"])


def _parsed(text: str) -> Any:
    """Parse JSON, and return None if the text is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def fingerprint(texts: Iterable[str]) -> str:
    """Return a checksum that identifies texts."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(hashlib.sha256(text.encode()).digest())
    return f"sha256:{digest.hexdigest()[:16]}"


@dataclass(frozen=True)
class TextRows:
    """A picklable function that returns the rows of a text, equal in every process."""

    data: Path
    vocabulary: Path
    context: int
    seed: int

    def __call__(self) -> Prose:
        """Return a source of windows over all texts, except for their held-out ends."""
        tokenizer = WorldTokenizer(self.vocabulary)
        ids = [_joined(tokenizer, documents) for documents in read_texts(self.data)]
        texts, ends = zip(*(split_off(text, self.context) for text in ids), strict=True)
        held_out = [row for rows in ends for row in rows]
        return Prose(texts, self.context, self.seed, tokenizer.encode("\n\n")[-1], held_out)


def _joined(tokenizer: WorldTokenizer, documents: Sequence[str]) -> np.ndarray:
    """Return the ids of a file's documents, with end-of-text between two documents."""
    ids: list[int] = []
    for number, document in enumerate(documents):
        ids += ([END_OF_TEXT] if number else []) + tokenizer.encode(document)
    return np.array(ids, dtype=np.int64)


def text_job(
    data: Path,
    out: Path,
    settings: TrainingSettings,
    *,
    layers: int,
    width: int,
    vocab_size: int,
    resume: bool,
    generation: str = "7",
) -> Job:
    """Create a job that trains a new model on text, with a new vocabulary for this text.

    The generation is "4", "5.2", "6" or "7".

    Raises:
        TrainingError: if a size is not allowed, or the folder cannot be used.
        InputError: if the text cannot be read.
    """
    check_whole("vocab_size", vocab_size)
    folder = RunFolder(out)
    folder.check(resume)
    texts = [text for documents in read_texts(data) for text in documents]
    tokens = [] if resume else make_vocabulary([(text, 1) for text in texts], vocab_size)
    ids = WorldTokenizer(folder.vocabulary).vocab_size if resume else 1 + len(tokens)
    config: Config = new_config(ids, layers, width)
    others = {}
    if generation != "7":  # not stored for 7, because the runs of earlier versions did not
        config, others = older_config(generation, ids, layers, width), {"generation": generation}
    return Job(
        config,
        TextRows(data, folder.vocabulary, settings.context, settings.seed),
        settings,
        folder,
        resume,
        source={
            "data": fingerprint(texts),
            "layers": layers,
            "width": width,
            "vocab_size": vocab_size,
            **others,
        },
        vocabulary=tokens,
    )
