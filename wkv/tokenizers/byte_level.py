"""How byte-level tokenizers of the `tokenizers` library spell bytes with printable characters."""

from functools import cache


@cache
def character_of_byte() -> list[str]:
    """The character that stands for each byte.

    Printable Latin-1 bytes stand for themselves; the others are, in order, U+0100 onwards.
    Source: GPT-2 paper's released encoder.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    table = {byte: chr(0x100 + index) for index, byte in enumerate(others)}
    return [table.get(byte, chr(byte)) for byte in range(256)]


@cache
def byte_of_character() -> dict[str, int]:
    """The inverse of `character_of_byte`."""
    return {character: byte for byte, character in enumerate(character_of_byte())}


def spell(data: bytes) -> str:
    """The characters that stand for bytes."""
    return "".join(map(character_of_byte().__getitem__, data))


def unspell(text: str) -> bytes:
    """The bytes that characters stand for.

    Raises:
        KeyError: for a character that stands for no byte.
    """
    return bytes(map(byte_of_character().__getitem__, text))
