"""Show the RWKV generation, the sizes and the dtype of a model file, without loading it."""

import argparse
import json
import math
from itertools import groupby
from typing import TYPE_CHECKING

from wkv.cli.options import add_alpha, add_model_path, find_model

if TYPE_CHECKING:
    from wkv.inference.describe import Description
    from wkv.models.strategy import Placement

SUMMARY = "show what the file of a model, an adapter or a state contains"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `wkv info` to the parser."""
    add_model_path(parser)
    parser.add_argument(
        "--strategy",
        help="also show the device of each layer under this strategy (the devices need not exist)",
    )
    parser.add_argument(
        "--adapter",
        action="append",
        metavar="PATH",
        help="also show an adapter, and whether it fits MODEL; may be repeated",
    )
    parser.add_argument(
        "--state",
        action="append",
        metavar="FILE",
        help="also show a state, and whether it fits MODEL; may be repeated",
    )
    add_alpha(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the properties of the checkpoint, and of adapters and states."""
    model = find_model(args.model)
    if model is not None and args.adapter is None and args.state is None:
        from wkv.cli.tuned_info import show_tuned

        if show_tuned(model, args):
            return 0
    from wkv.inference.describe import describe

    description = describe(model)
    config = description.config
    facts: dict[str, object] = {
        "generation": config.generation,
        "n_layer": config.n_layer,
        "n_embd": config.n_embd,
        "n_head": config.n_head,
        "head_size": config.head_size,
        "vocab_size": config.vocab_size,
        "n_params": description.n_params,
        "state_bytes": description.state_bytes,
        "layout": description.checkpoint.layout,
        "dtype": _dtypes(description),
    }
    placement = [] if args.strategy is None else _placement(description, args.strategy)
    tuned = []
    if args.adapter or args.state:
        from wkv.cli.tuned_info import fits, print_tuned

        tuned = fits(description, args)
    if args.json:
        more = {"strategy": placement} if placement else {}
        print(json.dumps(facts | more | ({"tuned": tuned} if tuned else {})))
        return 0
    lines = {
        "file": description.checkpoint.path,
        "generation": f"RWKV-{config.generation}",
        "layers": config.n_layer,
        "channels": config.n_embd,
        "heads": f"{config.n_head} of {config.head_size}" if config.n_head else "none",
        "channel mix": config.dim_ffn,
        "vocabulary": config.vocab_size,
        "parameters": f"{description.n_params:,}",
        "dtype": facts["dtype"],
        "layout": facts["layout"],
        "strategy": args.strategy or description.checkpoint.strategy or "auto",
        "state": f"{description.state_bytes:,} bytes, for a text of any length",
    }
    for name, value in lines.items():
        print(f"{name:12}{value}")
    for part in placement:
        print(f"  {part['layers']:20}{part['device']:8}{part['form']:32}{part['bytes']:>15,} bytes")
    for one in tuned:
        print_tuned(one)
    return 0


def _dtypes(description: "Description") -> str:
    """Return the dtypes of the matrices in the file; their formats if they are quantized."""
    checkpoint = description.checkpoint
    if checkpoint.stored_types:
        return ", ".join(checkpoint.stored_types)
    names = {str(dtype).split(".")[1] for dtype in description.dtypes}
    if checkpoint.is_packed and checkpoint.strategy is not None:
        names = names - {"float32"} | {checkpoint.strategy.split()[-1]}
    return ", ".join(sorted(names))


def _placement(description: "Description", text: str) -> list[dict[str, object]]:
    """Return the placement of each layer under a strategy, with equal neighbors combined."""
    from wkv.inference.load import strategy_for
    from wkv.inference.torch_weights import layer_bytes

    strategy = strategy_for(description, text, check=False)
    sizes = layer_bytes(description.shapes, strategy)
    last = len(strategy.layers) - 1
    rows: list[dict[str, object]] = [
        {
            "layers": "embedding",
            "device": "cpu",
            "form": str(strategy.dtype).split(".")[1],
            "bytes": strategy.dtype.itemsize * math.prod(description.shapes["emb.weight"]),
        }
    ]
    for placement, group in groupby(range(last + 1), key=strategy.layers.__getitem__):
        numbers = list(group)
        rows.append(
            {
                "layers": _layer_range(numbers[0], numbers[-1], last),
                "device": str(placement.device),
                "form": _form(placement),
                "bytes": sum(sizes[number] for number in numbers),
            }
        )
    return rows


def _layer_range(first: int, final: int, last: int) -> str:
    """Describe a range of layers; number `last` is the head together with ln_out."""
    if first == last:
        return "head"
    end = min(final, last - 1)
    blocks = f"layer {first}" if first == end else f"layers {first}-{end}"
    return f"{blocks}, head" if final == last else blocks


def _form(placement: "Placement") -> str:
    """Describe the dtype, int8 weights and streaming of a placement."""
    form = str(placement.dtype).split(".")[1]
    form += ", int8 weights" if placement.quantized else ""
    return form + (", streamed" if placement.streamed else "")
