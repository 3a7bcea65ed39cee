"""Convert text on stdin to token ids on stdout, or with --decode token ids to text.

The bytes of the text are converted unchanged, including line ends and a byte order mark.
"""

import argparse
import sys

MAX_DIGITS = 18  # int() raises an error for numbers with thousands of digits

SUMMARY = "convert text to token ids, or token ids to text"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `wkv tokenize` to the parser."""
    parser.add_argument(
        "--tokenizer",
        metavar="NAME_OR_FILE",
        default="world",
        help="world (default), 20b, bytes, abc, a vocabulary file, or a tokenizer.json",
    )
    parser.add_argument(
        "--decode", action="store_true", help="read token ids from stdin and print their text"
    )


def run(args: argparse.Namespace) -> int:
    """Tokenize or decode stdin."""
    from wkv.errors import TokenizerError
    from wkv.files import decode_text
    from wkv.tokenizers import open_tokenizer

    tokenizer = open_tokenizer(args.tokenizer)
    data = sys.stdin.buffer.read()
    if not args.decode:
        print(*tokenizer.encode(data))
        return 0
    ids = []
    for word in decode_text(data, "stdin").split():
        if not (word.isascii() and word.isdigit()) or len(word) > MAX_DIGITS:
            raise TokenizerError(f"{word[:40]!r} is not a token id; expected numbers and blanks")
        ids.append(int(word))
    sys.stdout.buffer.write(tokenizer.decode_bytes(ids))
    return 0
