"""Train on plain text: read it, make a vocabulary for it, cut it into rows."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wkv.errors import TrainingError
from wkv.tokenizers.world import WorldTokenizer
from wkv.train.data import Prose
from wkv.train.folder import RunFolder
from wkv.train.initialise import HEAD_SIZE, new_config
from wkv.train.loop import Job, Plan
from wkv.train.vocabulary import SINGLE_BYTES, make_vocabulary, write_vocabulary


def read_texts(data: Path) -> list[str]:
    """The text of a file, or of all .txt files in a folder.

    Raises:
        TrainingError: if there is no text, or it is not UTF-8.
    """
    paths = sorted(data.glob("*.txt")) if data.is_dir() else [data]
    if not paths:
        raise TrainingError(
            f"{data} holds no .txt files; give a text file or a folder of .txt files"
        )
    try:
        return [path.read_text(encoding="utf-8") for path in paths]
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(
            f"{data} cannot be read as UTF-8 text ({error}); give a text file"
        ) from error


@dataclass(frozen=True)
class TextRows:
    """Makes the rows of a text; a value, so that every process can make the same."""

    data: Path
    vocabulary: Path
    context: int
    seed: int

    def __call__(self) -> Prose:
        """Windows over all texts."""
        tokenizer = WorldTokenizer(self.vocabulary)
        texts = [np.array(tokenizer.encode(text)) for text in read_texts(self.data)]
        return Prose(texts, self.context, self.seed, tokenizer.encode("\n\n")[-1])


def text_job(
    data: Path, out: Path, plan: Plan, *, layers: int, width: int, vocab_size: int, resume: bool
) -> Job:
    """A job that trains a new model on text; makes the folder, and in it `model.vocab.txt`.

    Raises:
        TrainingError: if a size is impossible or there is no text.
    """
    if width < HEAD_SIZE or width % HEAD_SIZE:
        raise TrainingError(
            f"a width of {width} cannot be cut into heads of {HEAD_SIZE}; "
            f"give a multiple of {HEAD_SIZE}"
        )
    if vocab_size <= SINGLE_BYTES:
        raise TrainingError(
            f"a vocabulary of {vocab_size} has no room for all bytes; "
            f"give at least {SINGLE_BYTES + 1}"
        )
    folder = RunFolder(out)
    folder.check(resume)
    vocabulary = out / "model.vocab.txt"
    texts = read_texts(data)
    if not resume:
        out.mkdir(parents=True, exist_ok=True)
        write_vocabulary(make_vocabulary([(text, 1) for text in texts], vocab_size), vocabulary)
    config = new_config(WorldTokenizer(vocabulary).vocab_size, layers, width)
    return Job(config, TextRows(data, vocabulary, plan.context, plan.seed), plan, folder, resume)
