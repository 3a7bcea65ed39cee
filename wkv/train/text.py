"""Prepare training on plain text: read it, create a vocabulary for it, and split it into rows."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wkv.errors import TrainingError
from wkv.tokenizers.world import WorldTokenizer
from wkv.train.data import Prose
from wkv.train.initialize import new_config
from wkv.train.loop import Job
from wkv.train.make_vocabulary import make_vocabulary
from wkv.train.run_folder import RunFolder
from wkv.train.settings import Plan, check_whole


def read_texts(data: Path) -> list[str]:
    """Read a text file, or all .txt files in a folder.

    Raises:
        TrainingError: if the text is missing, or it is not UTF-8.
    """
    # The folder of texts may also be the folder of the run, whose vocabulary is not a text.
    texts = (path for path in data.glob("*.txt") if not path.name.endswith(".vocab.txt"))
    paths = sorted(texts) if data.is_dir() else [data]
    if not paths:
        raise TrainingError(
            f"{data} contains no .txt files; give a text file or a folder of .txt files"
        )
    return [_read(path) for path in paths]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise TrainingError(
            f"{path} cannot be read ({error.strerror}); give a text file or a folder of .txt files"
        ) from error
    except UnicodeDecodeError as error:
        raise TrainingError(
            f"{path} is not UTF-8 text (byte {error.start} is {error.object[error.start]:#04x}); "
            "give a text file, or convert it"
        ) from error


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
        """Return a source of windows over all texts."""
        tokenizer = WorldTokenizer(self.vocabulary)
        texts = [np.array(tokenizer.encode(text)) for text in read_texts(self.data)]
        return Prose(texts, self.context, self.seed, tokenizer.encode("\n\n")[-1])


def text_job(
    data: Path, out: Path, plan: Plan, *, layers: int, width: int, vocab_size: int, resume: bool
) -> Job:
    """Create a job that trains a new model on text, with a new vocabulary for this text.

    Raises:
        TrainingError: if a size is not allowed, or the text or the folder cannot be used.
    """
    check_whole("vocab_size", vocab_size)
    folder = RunFolder(out)
    folder.check(resume)
    texts = read_texts(data)
    tokens = [] if resume else make_vocabulary([(text, 1) for text in texts], vocab_size)
    ids = WorldTokenizer(folder.vocabulary).vocab_size if resume else 1 + len(tokens)
    return Job(
        new_config(ids, layers, width),
        TextRows(data, folder.vocabulary, plan.context, plan.seed),
        plan,
        folder,
        resume,
        source={
            "data": fingerprint(texts),
            "layers": layers,
            "width": width,
            "vocab_size": vocab_size,
        },
        vocabulary=tokens,
    )
