"""Say what a checkpoint is: generation, sizes, parameters, bytes of one state. Loads no weights."""

import argparse
import json

from wkv.cli.options import add_model_path

SUMMARY = "say what a checkpoint is"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `wkv info`."""
    add_model_path(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print what the checkpoint is."""
    from wkv.loading import describe

    description = describe(args.model)
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
        "dtype": ", ".join(sorted(str(dtype).split(".")[1] for dtype in description.dtypes)),
    }
    if args.json:
        print(json.dumps(facts))
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
        "one state": f"{description.state_bytes:,} bytes, however long the text",
    }
    for name, value in lines.items():
        print(f"{name:12}{value}")
    return 0
