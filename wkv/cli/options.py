"""Options that several commands share, and the functions that read them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wkv import demo
from wkv.cli.notices import notice, slow_step
from wkv.errors import InputError

if TYPE_CHECKING:
    from wkv.inference.model import Model
    from wkv.inference.sampling import Sampling
    from wkv.inference.speculation import Speculation
    from wkv.models.state import State

BUILT_IN = "demo"
"""The name of the built-in model."""

NAMED_PATH = re.compile(r"(?P<name>[^/\\=]+)=(?P<path>.+)")
"""NAME=PATH; the name contains no slash, so that paths with an equals sign have none."""

# These are the defaults of Sampling, repeated here because importing it would import torch.
SAMPLING = {
    "temperature": (float, "randomness: 0 always takes the most likely token", 1.0),
    "top_p": (float, "sample from the most likely tokens that together have probability X", 0.85),
    "top_k": (int, "sample from the X most likely tokens; 0 or -1: from all", 0),
    "presence_penalty": (float, "make tokens that already appeared less likely", 0.2),
    "frequency_penalty": (float, "make tokens less likely each time they appear", 0.2),
    "penalty_decay": (
        float,
        "factor by which the frequency penalty shrinks with each token",
        0.996,
    ),
    "seed": (int, "seed for sampling: the same seed gives the same text; -1: random", None),
}


def add_model_path(parser: argparse.ArgumentParser) -> None:
    """Add the MODEL argument to a parser."""
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a .pth, .safetensors or .gguf file, a Hugging Face directory, a name such as g1:0.1b "
        "or OWNER/NAME of a hub, or an address (default: demo, the built-in model)",
    )


def add_model(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Add MODEL, --adapter, --strategy, --threads and --tokenizer to a parser.

    With `several`, adapters may have names, among which each request chooses.
    """
    add_model_path(parser)
    adapter = "an adapter for MODEL, such as a LoRA folder of peft; it is merged in memory"
    if several:
        adapter += "; with NAME=PATH, requests choose it by its name; may be repeated"
    parser.add_argument(
        "--adapter",
        metavar="[NAME=]PATH" if several else "PATH",
        action="append" if several else "store",
        help=adapter,
    )
    add_alpha(parser)
    parser.add_argument(
        "--strategy",
        default="auto",
        help="device and precision: auto (default), or a ChatRWKV strategy such as 'cpu bf16' "
        "or 'cuda fp16i8 *10 -> cpu fp32'",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="number of CPU threads (default: one per core)"
    )
    parser.add_argument(
        "--tokenizer",
        metavar="NAME_OR_FILE",
        help="world, 20b, bytes, abc, or a file (default: chosen for the model)",
    )


def add_speculation(parser: argparse._ActionsContainer) -> None:
    """Add --speculate and --draft to a parser of a command that generates text."""
    parser.add_argument(
        "--speculate",
        type=_speculate,
        default="auto",
        metavar="auto|off|N",
        help="read drafts of the next tokens in the same pass; the text does not change. auto "
        "(default): as many as save time; N: always up to N",
    )
    parser.add_argument(
        "--draft",
        metavar="MODEL",
        help="a small model with the same vocabulary, which drafts where the text repeats nothing",
    )


def _speculate(text: str) -> str | int:
    """Parse the value of --speculate; used by argparse."""
    if text in ("auto", "off"):
        return text
    if not text.isdecimal() or not 1 <= int(text) <= 16:
        raise argparse.ArgumentTypeError(f"{text!r} is not auto, off or a number from 1 to 16")
    return int(text)


def load_speculation(args: argparse.Namespace, model: Model) -> Speculation | None:
    """Return the speculative decoding that the options ask for, with its draft model."""
    from wkv.inference.speculation import speculation_for

    draft = None
    if args.draft is not None and args.speculate != "off":
        file = find_model(args.draft)
        from wkv.inference.load import load

        with slow_step(f"loading {args.draft}"):
            draft = load(file, threads=args.threads)
    elif args.draft is not None:
        raise InputError("--draft needs speculative decoding; leave --speculate off out")
    return speculation_for(model, args.speculate, draft)


def add_alpha(parser: argparse._ActionsContainer) -> None:
    """Add --alpha to a parser of a command that reads adapters."""
    parser.add_argument(
        "--alpha",
        type=float,
        metavar="A",
        help="the alpha of the adapter's training, for files that do not contain it",
    )


def add_states(parser: argparse.ArgumentParser) -> None:
    """Add --state to a parser of a command whose requests choose a tuned state by its name."""
    parser.add_argument(
        "--state",
        metavar="[NAME=]FILE",
        action="append",
        help='a tuned state of MODEL that requests choose by its name, as "state" or as '
        '"model": "MODEL:NAME"; without NAME, requests without a state begin from it; may be '
        "repeated",
    )


def named_paths(given: Sequence[str] | str | None, option: str) -> dict[str | None, str]:
    """Return the paths of an option that may be repeated, by name; None is the one without a name.

    Raises:
        InputError: if a name is repeated.
    """
    paths: dict[str | None, str] = {}
    for text in [given] if isinstance(given, str) else given or ():
        match = NAMED_PATH.fullmatch(text)
        name, path = (match["name"], match["path"]) if match else (None, text)
        if name in paths:
            which = "without a name" if name is None else f"with the name {name!r}"
            raise InputError(f"{option} was given twice {which}; give each its own: NAME=PATH")
        paths[name] = path
    return paths


def read_states(args: argparse.Namespace, model: Model) -> dict[str | None, State]:
    """Load the states of --state by name; None is the one without a name."""
    from wkv.models.state import State

    paths = named_paths(args.state, "--state")
    return {name: State.load(path, model) for name, path in paths.items()}


def add_sampling(parser: argparse.ArgumentParser, *, show_defaults: bool = True) -> None:
    """Add one option for each field of Sampling; `read_sampling` fills in missing values."""
    for name, (kind, text, default) in SAMPLING.items():
        suffix = f" (default: {default})" if show_defaults and default is not None else ""
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=kind, metavar="X", help=text + suffix)


def read_sampling(args: argparse.Namespace, default: Sampling | None = None) -> Sampling:
    """Return the sampling parameters of the options; missing ones are taken from `default`."""
    from dataclasses import replace

    from wkv.inference.sampling import Sampling

    given = {name: getattr(args, name) for name in SAMPLING if getattr(args, name) is not None}
    for name, neutral in (("seed", None), ("top_k", 0)):  # -1: random, no limit
        if given.get(name) == -1:
            given[name] = neutral
    return replace(default or Sampling(), **given)


def token_limit(text: str) -> int:
    """Parse a number of tokens; -1 means no limit. Used by argparse."""
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if number < -1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is negative, expected a whole number, or -1 for no limit"
        )
    if number == -1:
        from wkv.chat.settings import NO_LIMIT  # it imports PyTorch

        return NO_LIMIT
    return number


def load_model(args: argparse.Namespace) -> Model:
    """Load the model that the options name, and print on stderr what `auto` selected."""
    file = find_model(args.model)  # before PyTorch is imported: a typo is reported without delay
    from wkv.inference.load import load

    adapters = named_paths(args.adapter, "--adapter")
    merged = adapters.pop(None, None)
    if merged is not None and adapters:
        raise InputError(
            "--adapter was given with and without a name; one without a name changes the model "
            "that the others were trained for, so give every adapter a name, or only one"
        )
    with slow_step(f"loading {args.model or 'the built-in model'}"):
        model = load(
            file,
            args.strategy,
            tokenizer=args.tokenizer,
            threads=args.threads,
            adapter=merged,
            alpha=args.alpha,
            adapters={str(name): path for name, path in adapters.items()},
        )
    if args.model is not None:
        _report_choices(model)
    return model


def _report_choices(model: Model) -> None:
    """Print the strategy that `auto` selected, and the engine if it is slow or on a GPU."""
    if model.strategy.reason:
        notice(f"strategy: {model.strategy} ({model.strategy.reason})")
    if model.engine == "cuda":
        notice(f"engine: cuda ({model.kernels})")
    elif model.engine == "torch" and model.device.type == "cuda":
        from wkv.bench.engine_info import why

        notice(f"{why(model)}; using PyTorch, which is slower")
    elif model.engine == "torch" and model.device.type == "cpu":
        from wkv.native.library import missing_reason

        missing = missing_reason()
        if missing is not None:
            notice(
                f"the fast CPU engine is not available ({missing}); using PyTorch, which is slower"
            )


def find_model(name: str | None) -> str | Path | None:
    """Return the file that MODEL names; it is downloaded if it is not on this machine.

    BUILT_IN names the built-in model, unless there is a file or folder of that name.

    Raises:
        CatalogError: if the name is not in the catalog, or its file cannot be downloaded.
    """
    if name is None:
        return None
    if name == BUILT_IN and not Path(name).exists():
        return demo.WEIGHTS
    from wkv import hub

    wanted = hub.lookup(name)
    if wanted is None:
        return name
    from wkv.cli.fetching import fetch_shown

    here = hub.cached(wanted) if isinstance(wanted, hub.Entry) else hub.stored(wanted)
    return here or fetch_shown(wanted)
