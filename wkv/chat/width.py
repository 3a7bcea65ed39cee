"""How many columns a text takes on a terminal: a Chinese or Japanese character takes two."""

import unicodedata


def width(text: str) -> int:
    """Columns of a text without control characters."""
    return sum(map(columns, text))


def columns(character: str) -> int:
    """Columns of one character: 0 for marks on the one before, 2 for wide ones, else 1."""
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def padded(text: str, size: int) -> str:
    """The text with blanks after it, to at least `size` columns."""
    return text + " " * (size - width(text))
