"""Text on stdin to token ids on stdout, or with --decode the other way round."""

import argparse
import sys

MOST_DIGITS = 18  # Python itself refuses to read numbers of thousands of digits

SUMMARY = "text to token ids, and back"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `wkv tokenize`."""
    parser.add_argument(
        "--tokenizer",
        metavar="NAME_OR_FILE",
        default="world",
        help="world (default), 20b, bytes, a vocabulary file, or a tokenizer.json",
    )
    parser.add_argument("--decode", action="store_true", help="ids on stdin to text on stdout")


def run(args: argparse.Namespace) -> int:
    """Tokenize stdin."""
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
            raise TokenizerError(f"{shown!r} is no token id; expected numbers, blank-separated")
        ids.append(int(word))
    sys.stdout.buffer.write(tokenizer.decode_bytes(ids))
    return 0
