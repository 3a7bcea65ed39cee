"""Convert text on stdin to token ids on stdout, or with --decode token ids to text."""

import argparse
import sys

MOST_DIGITS = 18  # int() raises an error for numbers with thousands of digits

SUMMARY = "convert text to token ids, or token ids to text"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `wkv tokenize` to the parser."""
    parser.add_argument(
        "--tokenizer",
        metavar="NAME_OR_FILE",
        default="world",
        help="world (default), 20b, bytes, a vocabulary file, or a tokenizer.json",
    )
    parser.add_argument(
        "--decode", action="store_true", help="read token ids from stdin and print their text"
    )


def run(args: argparse.Namespace) -> int:
    """Tokenize or decode stdin."""
    from wkv.errors import TokenizerError
    from wkv.tokenizers import open_tokenizer

    tokenizer = open_tokenizer(args.tokenizer)
    data = sys.stdin.buffer.read()
    if not args.decode:
        print(*tokenizer.encode(data))
        return 0
    ids = []
    for word in data.split():
        if not word.isdigit() or len(word) > MOST_DIGITS:
            shown = word.decode("utf-8", "replace")[:40]
            raise TokenizerError(f"{shown!r} is not a token id; expected numbers and blanks")
        ids.append(int(word))
    sys.stdout.buffer.write(tokenizer.decode_bytes(ids))
    return 0
