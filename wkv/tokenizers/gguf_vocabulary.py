"""The vocabulary in a GGUF file of RWKV: tokens in ASCII, with the escapes of Python's `repr`."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from wkv.errors import TokenizerError
from wkv.tokenizers.world import WORLD_VOCAB_SIZE, WorldTokenizer

NORMAL = 1
"""GGUF's type of tokens that stand for text."""

ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.)", re.DOTALL)

CONTROLS = {b"t": b"\t", b"n": b"\n", b"r": b"\r"}


def unescaped(token: str) -> bytes:
    r"""Return the bytes of a token; llama.cpp knows the escapes \t, \n, \r, \xff and \\."""

    def plain(found: re.Match[bytes]) -> bytes:
        code = found[1]
        return bytes([int(code[1:], 16)]) if len(code) == 3 else CONTROLS.get(code, code)

    return ESCAPE.sub(plain, token.encode())


def gguf_tokenizer(
    path: Path, tokens: Sequence[str], types: Sequence[int], vocab_size: int
) -> WorldTokenizer:
    """Return the tokenizer of a GGUF file.

    If its vocabulary is World, the official one is returned. If it has the size of World and
    differs, a warning is logged, and the vocabulary of the file is used.

    Args:
        path: the file, for messages.
        tokens: `tokenizer.ggml.tokens`, one for each id.
        types: `tokenizer.ggml.token_type`; empty if the file has none.
        vocab_size: number of rows of the embedding.

    Raises:
        TokenizerError: if there are fewer or more tokens than ids, or a token occurs twice.
    """
    if len(tokens) != vocab_size or len(types) not in (0, vocab_size):
        raise TokenizerError(
            f"{path}: the vocabulary has {len(tokens)} tokens and the model {vocab_size} ids; "
            "give the model's tokenizer: --tokenizer NAME_OR_FILE, or tokenizer= in Python"
        )
    entries = {
        token: text
        for token in range(1, vocab_size)
        if (not types or types[token] == NORMAL) and (text := unescaped(tokens[token]))
    }
    if len(set(entries.values())) < len(entries):
        raise TokenizerError(
            f"{path}: a token occurs twice in the vocabulary, so texts would be misread; give the "
            "model's tokenizer: --tokenizer NAME_OR_FILE, or tokenizer= in Python"
        )
    if vocab_size == WORLD_VOCAB_SIZE:
        world = WorldTokenizer()
        if world.entries == entries:
            return world
        first = min(n for n in range(vocab_size) if world.entries.get(n) != entries.get(n))
        logging.getLogger(__name__).warning(
            "%s: its vocabulary differs from World, first at id %d; it is used", path, first
        )
    return WorldTokenizer(entries, vocab_size, path.name)
