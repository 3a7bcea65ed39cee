"""The mapping between bytes and printable characters that byte-level BPE tokenizers use."""

from functools import cache


@cache
def character_of_byte() -> list[str]:
    """Return the printable character that represents each of the 256 bytes.

    Printable Latin-1 bytes represent themselves; the others are mapped, in order, to U+0100 and
    the characters after it. Source: the encoder released with the GPT-2 paper.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    table = {byte: chr(0x100 + index) for index, byte in enumerate(others)}
    return [table.get(byte, chr(byte)) for byte in range(256)]


@cache
def byte_of_character() -> dict[str, int]:
    """Return the inverse of `character_of_byte`."""
    return {character: byte for byte, character in enumerate(character_of_byte())}


def bytes_to_characters(data: bytes) -> str:
    """Convert bytes to the characters that represent them."""
    return "".join(map(character_of_byte().__getitem__, data))


def characters_to_bytes(text: str) -> bytes:
    """Convert characters back to the bytes that they represent.

    Raises:
        KeyError: if a character does not represent a byte.
    """
    return bytes(map(byte_of_character().__getitem__, text))
