"""Make a small vocabulary in World format from text: all bytes, and the whole words that save most.

Words carry their leading space; there are no suffix pieces, so a word that is rare, or stands in
quotes, is spelled in bytes. Digits stay single, and only a blank line holds a newline.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from wkv.tokenizers import world

CANDIDATE = re.compile(
    r"[A-Z][A-Z ]*[A-Z]:"  # who speaks in a play
    r"| [A-Za-z]+(?:'[a-z]+)?"  # a word inside a sentence
    r"|[A-Z][a-z]+"  # a word that begins a line
    r"| ?[^A-Za-z0-9\s]{2,}| [^A-Za-z0-9\s]"  # punctuation
    r"|\n\n"
)
SINGLE_BYTES = 256


def make_vocabulary(
    texts: Iterable[tuple[str, int]], size: int, always: Sequence[str] = ("\n\n",)
) -> list[bytes]:
    """The tokens of ids 1, 2, ...: all bytes, then the most useful candidates in order of bytes.

    Args:
        texts: text and how often it counts.
        size: number of ids, that of id 0 (which has no text) included; at least 257.
        always: tokens that are taken whatever they save.
    """
    counts: Counter[str] = Counter()
    for text, weight in texts:
        for piece in CANDIDATE.findall(text):
            if len(piece) > 1:
                counts[piece] += weight
    room = size - 1 - SINGLE_BYTES
    saved = sorted(counts, key=lambda piece: (-counts[piece] * (len(piece.encode()) - 1), piece))
    chosen = [*always, *(piece for piece in saved if piece not in always)][:room]
    return [bytes([byte]) for byte in range(SINGLE_BYTES)] + sorted(
        piece.encode() for piece in chosen
    )


def write_vocabulary(tokens: Sequence[bytes], path: Path) -> None:
    """Write the tokens of ids 1, 2, ... in World format."""
    world.write_vocabulary(dict(enumerate(tokens, start=1)), path)
