"""Options that several commands share, and what they make of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from wkv.cli.notices import notice

if TYPE_CHECKING:
    from wkv.inference.model import Model
    from wkv.inference.sampling import Sampling

# The defaults are those of Sampling, told without importing it: it needs torch.
SAMPLING = {
    "temperature": (float, "flatness of the draw; 0 takes the most probable token", 1.0),
    "top_p": (float, "draw from the most probable tokens that reach this probability", 0.85),
    "top_k": (int, "draw from at most so many tokens; 0: no limit", 0),
    "presence_penalty": (float, "taken from the logit of tokens that were said", 0.2),
    "frequency_penalty": (float, "taken from it for each time", 0.2),
    "penalty_decay": (float, "how the frequency penalty fades, per token", 0.996),
    "seed": (int, "repeat the same draw", None),
}


def add_model_path(parser: argparse.ArgumentParser) -> None:
    """MODEL alone."""
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a .pth or .safetensors file, or a name such as g1:0.1b; default: built in",
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """MODEL, --strategy and --tokenizer."""
    add_model_path(parser)
    parser.add_argument(
        "--strategy",
        default="auto",
        help="`auto`, or ChatRWKV's, such as `cpu bf16` or `cuda fp16i8 *10 -> cpu fp32`",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads on a CPU; default: one for each core"
    )
    parser.add_argument(
        "--tokenizer", metavar="NAME_OR_FILE", help="world, 20b, bytes, or a file; default: by size"
    )


def add_sampling(parser: argparse.ArgumentParser, *, tell_defaults: bool = True) -> None:
    """One option for each field of Sampling; what is not given is left to `read_sampling`."""
    for name, (kind, text, default) in SAMPLING.items():
        told = f" (default: {default})" if tell_defaults and default is not None else ""
        parser.add_argument("--" + name.replace("_", "-"), type=kind, metavar="X", help=text + told)


def read_sampling(args: argparse.Namespace, default: Sampling | None = None) -> Sampling:
    """The sampling that the options ask for, over a default."""
    from dataclasses import replace

    from wkv.inference.sampling import Sampling

    given = {name: getattr(args, name) for name in SAMPLING if getattr(args, name) is not None}
    return replace(default or Sampling(), **given)


def load_model(args: argparse.Namespace) -> Model:
    """The model that the options name; says on stderr what `auto` picked."""
    file = find_model(args.model)  # before PyTorch is imported: a typo is told at once
    from wkv.inference.load import load

    model = load(file, args.strategy, tokenizer=args.tokenizer, threads=args.threads)
    if model.strategy.reason and args.model is not None:
        notice(f"strategy: {model.strategy} ({model.strategy.reason})")
    if model.engine == "torch" and model.device.type == "cpu" and args.model is not None:
        from wkv.native.library import missing

        why = missing()
        if why is not None:
            notice(f"the fast engine for CPUs is not here ({why}); PyTorch is used, slower")
    return model


def find_model(name: str | None) -> str | Path | None:
    """What MODEL stands for: a name of the catalog is its file, fetched if it is not here yet.

    Raises:
        CatalogError: if the name is not in the catalog, or its file cannot be had.
    """
    if name is None:
        return None
    from wkv import hub

    entry = hub.lookup(name)
    if entry is None:
        return name
    from wkv.cli.fetching import fetch_shown

    return hub.cached(entry) or fetch_shown(entry)
