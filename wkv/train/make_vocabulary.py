"""Create a small vocabulary in World format: all single bytes, and the most useful whole words.

Words include their leading space. The vocabulary has no suffix tokens, so a rare word, or a word in
quotes, is encoded as bytes. Digits are single tokens, and only the blank line token contains
newlines.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from wkv.tokenizers import world

CANDIDATE = re.compile(
    r"[A-Z][A-Z ]*[A-Z]:"  # the name of a speaker in a play
    r"| [A-Za-z]+(?:'[a-z]+)?"  # a word within a sentence
    r"|[A-Z][a-z]+"  # a word at the beginning of a line
    r"| ?[^A-Za-z0-9\s]{2,}| [^A-Za-z0-9\s]"  # punctuation
    r"|\n\n"
)
SINGLE_BYTES = 256


def make_vocabulary(
    texts: Iterable[tuple[str, int]], size: int, always: Sequence[str] = ("\n\n",)
) -> list[bytes]:
    """Return the tokens of ids 1, 2, ...: all single bytes, then the most useful candidates.

    The most useful candidates are those that save the most bytes. They are sorted bytewise.

    Args:
        texts: texts, each with the factor by which it is counted.
        size: number of ids, including id 0 (which has no bytes); at least 257.
        always: tokens that are always included.
    """
    counts: Counter[str] = Counter()
    for text, weight in texts:
        for piece in CANDIDATE.findall(text):
            if len(piece) > 1:
                counts[piece] += weight
    free_ids = size - 1 - SINGLE_BYTES
    ranked = sorted(counts, key=lambda piece: (-counts[piece] * (len(piece.encode()) - 1), piece))
    chosen = [*always, *(piece for piece in ranked if piece not in always)][:free_ids]
    return [bytes([byte]) for byte in range(SINGLE_BYTES)] + sorted(
        piece.encode() for piece in chosen
    )


def write_vocabulary(tokens: Sequence[bytes], path: Path) -> None:
    """Write the tokens of ids 1, 2, ... in World format."""
    world.write_vocabulary(dict(enumerate(tokens, start=1)), path)
