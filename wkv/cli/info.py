"""Say what a checkpoint is: generation, sizes, parameters, bytes of one state. Loads no weights."""

import argparse
import json
from itertools import groupby
from typing import TYPE_CHECKING

from wkv.cli.options import add_model_path, find_model

if TYPE_CHECKING:
    from wkv.inference.load import Description
    from wkv.strategy import Placement

SUMMARY = "say what a checkpoint is"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `wkv info`."""
    add_model_path(parser)
    parser.add_argument(
        "--strategy", help="show which layer goes where under a strategy; no device is needed"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print what the checkpoint is."""
    model = find_model(args.model)
    from wkv.inference.load import describe

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
    picture = [] if args.strategy is None else _picture(description, args.strategy)
    if args.json:
        print(json.dumps(facts | ({"strategy": picture} if picture else {})))
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
        "one state": f"{description.state_bytes:,} bytes, however long the text",
    }
    for name, value in lines.items():
        print(f"{name:12}{value}")
    for part in picture:
        print(f"  {part['layers']:20}{part['device']:8}{part['form']:32}{part['bytes']:>15,} bytes")
    return 0


def _dtypes(description: "Description") -> str:
    """The dtypes of the matrices in the file; of packed ones the format."""
    names = {str(dtype).split(".")[1] for dtype in description.dtypes}
    checkpoint = description.checkpoint
    if checkpoint.is_packed and checkpoint.strategy is not None:
        names = names - {"float32"} | {checkpoint.strategy.split()[-1]}
    return ", ".join(sorted(names))


def _picture(description: "Description", text: str) -> list[dict[str, object]]:
    """The strategy layer by layer, equal neighbors together."""
    from wkv.inference.load import strategy_for
    from wkv.inference.torch_weights import layer_bytes

    strategy = strategy_for(description, text, check=False)
    sizes = layer_bytes(description.network, strategy)
    last = len(strategy.layers) - 1
    rows: list[dict[str, object]] = [
        {
            "layers": "embedding",
            "device": "cpu",
            "form": str(strategy.dtype).split(".")[1],
            "bytes": strategy.dtype.itemsize * description.network.emb.weight.numel(),
        }
    ]
    for placement, group in groupby(range(last + 1), key=strategy.layers.__getitem__):
        numbers = list(group)
        rows.append(
            {
                "layers": _named(numbers[0], numbers[-1], last),
                "device": str(placement.device),
                "form": _form(placement),
                "bytes": sum(sizes[number] for number in numbers),
            }
        )
    return rows


def _named(first: int, final: int, last: int) -> str:
    """A run of layers in words; the last one of all is ln_out and the head."""
    if first == last:
        return "head"
    end = min(final, last - 1)
    blocks = f"layer {first}" if first == end else f"layers {first}-{end}"
    return f"{blocks}, head" if final == last else blocks


def _form(placement: "Placement") -> str:
    """dtype, int8 and streaming of a placement in words."""
    form = str(placement.dtype).split(".")[1]
    form += ", int8 weights" if placement.quantized else ""
    return form + (", streamed" if placement.streamed else "")
