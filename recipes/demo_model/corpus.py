"""Clean the six books, split them into training and held-out text, and create the vocabulary.

The files are the plain texts of Project Gutenberg (11, 55, 74, 1342, 1661) and tiny Shakespeare of
karpathy/char-rnn. Their names end in .txt. The line breaks of a file with `shakespeare` in its name
are preserved.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from random import Random

from recipes.demo_model.dialogues import write_document
from recipes.demo_model.exercises import Source
from wkv.errors import TrainingError
from wkv.train.make_vocabulary import make_vocabulary

TRAINING_SHARE = 0.96
VOCABULARY_SIZE = 2048
CHAT_SAMPLE = 4000
"""Number of generated conversations from which, together with the books, the vocabulary is made."""

PLAIN = str.maketrans({
    "’": "'", "‘": "'", "“": '"', "”": '"', "—": "--", "–": "-", "_": "", "…": "...", "æ": "ae",
    "é": "e", "è": "e", "ê": "e", "£": "L", "\t": " ", "\r": "",
})  # fmt: skip
FULL_LINE = 62
"""Prose is wrapped at about 70 characters, so a paragraph whose lines are all shorter is verse."""


def read_books(folder: Path) -> dict[str, tuple[str, str]]:
    """Read all books: training text and held-out text (the last 4 %) by name.

    Raises:
        TrainingError: if the folder contains no .txt files.
    """
    paths = sorted(folder.glob("*.txt"))
    if not paths:
        raise TrainingError(f"{folder} contains no .txt files; put the books there as plain text")
    books = {}
    for path in paths:
        text = clean(path.read_text(encoding="utf-8-sig"), keep_lines="shakespeare" in path.name)
        cut = text.rfind("\n\n", 0, int(len(text) * TRAINING_SHARE))
        books[path.stem] = (text[:cut], text[cut + 2 :])
    return books


def clean(text: str, keep_lines: bool) -> str:
    """Reduce a file to the text of the book, in ASCII.

    Unless `keep_lines` is set, a paragraph becomes one line (except verse), and paragraphs are
    separated by one blank line.
    """
    text = text.replace("\r", "")
    if start := re.search(r"\*\*\* ?START OF.*?\*\*\*", text):
        text = text[start.end() :]
    if end := re.search(r"\*\*\* ?END OF", text):
        text = text[: end.start()]
    text = re.sub(r"\[Illustration[^\]]*\]", "", text, flags=re.DOTALL)
    text = text.translate(PLAIN).encode("ascii", "ignore").decode()
    if not keep_lines:
        paragraphs = (part.strip("\n") for part in re.split(r"\n\s*\n", text))
        text = "\n\n".join(_unwrap(part) for part in paragraphs if part.strip())
    return re.sub(" +", " ", text)


def _unwrap(paragraph: str) -> str:
    """Join the lines of a paragraph, unless it is verse or a list."""
    lines = paragraph.split("\n")
    is_short = len(lines) > 2 and all(len(line) < FULL_LINE for line in lines[:-1])
    is_indented = all(line.startswith("  ") for line in lines)
    return ("\n" if is_short or is_indented else " ").join(line.strip() for line in lines)


def demo_vocabulary(texts: Sequence[str], source: Source, seed: int) -> list[bytes]:
    """Create 2047 tokens from the books and from generated conversations, which count twice."""
    random, write = Random(seed), write_document(source)
    chat = "".join(text for _ in range(CHAT_SAMPLE) for text, _ in write(random))
    weighted = [*((text, 1) for text in texts), (chat, 2)]
    return make_vocabulary(weighted, VOCABULARY_SIZE, always=("\n\n", "User:", "Assistant:"))
