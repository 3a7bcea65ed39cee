"""Compare two files of any format: tensors, predictions on a text, and tokenizers.

The exit status is 0 if they are the same model, up to the rounding of the less precise number
format, and 1 otherwise.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from wkv.cli.notices import slow_step
from wkv.cli.options import find_model

if TYPE_CHECKING:
    from wkv.convert.compare import Comparison

SUMMARY = "check whether two files are the same model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `wkv verify` to the parser."""
    parser.add_argument("model", metavar="X", help="a checkpoint, a directory, or a name")
    parser.add_argument(
        "--against", metavar="Y", required=True, help="the checkpoint to compare it with"
    )
    parser.add_argument(
        "--text",
        type=Path,
        metavar="FILE",
        help="compare the predictions on this text (default: a short built-in text)",
    )
    parser.add_argument(
        "--tensors-only",
        action="store_true",
        help="do not compare predictions, which needs memory for each model in float32",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Compare, and print the differences."""
    one, other = (find_model(name) or name for name in (args.model, args.against))

    from wkv.convert.compare import compare
    from wkv.convert.verify import TEXT
    from wkv.files import read_text

    text = TEXT if args.text is None else read_text(args.text)
    with slow_step(f"comparing {args.model} with {args.against}"):
        found = compare(one, other, text=text, logits=not args.tensors_only)
    if args.json:
        print(json.dumps(_finite({"same": found.is_same, **asdict(found)})))
    else:
        _print(found)
    return 0 if found.is_same else 1


def _print(found: "Comparison") -> None:
    """Print a comparison for a person."""
    if found.worst is not None:
        print(
            f"tensors     {found.n_tensors} compared; {found.worst.name} differs most, by "
            f"{found.worst.relative:.2g} of its size (limit for {found.precision.name}: "
            f"{found.precision.tensors:g})"
        )
    if found.n_tokens:
        print(
            f"predictions of {found.n_tokens} tokens: logits differ by at most {found.logits:.3g}; "
            f"{found.divergence:.2g} nats per token (limit: {found.precision.divergence:g}); "
            f"{found.n_greedy} of {found.n_tokens} greedy tokens are equal"
        )
    print(f"tokenizers  {found.tokenizers}")
    print("the same model" if found.is_same else "not the same model:")
    for problem in found.problems:
        print(f"  {problem}")


def _finite(value: object) -> object:
    """Replace infinite numbers, which JSON does not have, by null."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return None
    return value
