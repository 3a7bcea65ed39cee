"""Say what works on this machine and what is missing, and what to do about it."""

import argparse
import json
import platform
import shutil
import textwrap
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from wkv.cli import machine
from wkv.cli.machine import Finding
from wkv.version import __version__

SUMMARY = "say what works on this machine and what is missing"

EXTRAS = {
    "matplotlib": ("the plots of wkv train and wkv bench", "pip install matplotlib"),
    "transformers": ("wkv.hf, and a second proof in wkv convert --to hf", "pip install 'wkv[hf]'"),
    "lm_eval": ("the tasks of wkv eval --tasks", "pip install 'wkv[eval]'"),
    "gguf": ("wkv convert --to gguf", "pip install 'wkv[gguf]'"),
    "fastapi": ("wkv serve", "pip install 'wkv[serve]'"),
    "llguidance": ("replies that follow a schema, in wkv serve", "pip install 'wkv[serve]'"),
    "tiktoken": ("the cl100k_base vocabulary in wkv.compat", "pip install tiktoken"),
}
"""Packages that wkv does without: what each brings, and the line that installs it."""

WIDTH = 80
TOPIC = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `wkv doctor`."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the report; 1 if wkv cannot run at all, which is when PyTorch is broken."""
    torch = _torch()
    findings = [finding for check in _checks(not torch.advice) for finding in _made(check)]
    findings[1:1] = [torch]
    if args.json:
        report = {f.topic: {"found": f.found, "advice": f.advice or None} for f in findings}
        print(json.dumps(report, indent=1))
    else:
        for finding in findings:
            print(_told(finding))
    return 1 if torch.advice else 0


def _checks(with_torch: bool) -> Iterator[Callable[[], Finding | list[Finding]]]:
    """What is looked at, in order."""
    yield lambda: Finding(
        "wkv", f"{__version__}, Python {platform.python_version()}, {platform.system()}"
    )
    yield machine.processor
    if with_torch:
        yield machine.threads
    yield machine.memory
    if with_torch:
        yield machine.engine
        yield machine.gpus
        yield machine.automatic
    yield machine.compiler
    yield _extras
    yield _vocabulary
    yield _pile_tokenizer
    yield _hub
    yield _cache
    yield _models
    yield _chats


def _made(check: Callable[[], Finding | list[Finding]]) -> list[Finding]:
    """What a check finds. A doctor does not fall ill: an error is a finding too."""
    try:
        found = check()
    except Exception as error:  # whatever a broken installation throws
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        topic = getattr(check, "__name__", "check").strip("_")
        return [Finding(topic, f"could not be looked at ({text})", "reinstall wkv")]
    return found if isinstance(found, list) else [found]


def _told(finding: Finding) -> str:
    """A finding in words, with what to do below it."""
    indent = " " * TOPIC
    lines = textwrap.wrap(
        finding.found, WIDTH - TOPIC, break_long_words=False, break_on_hyphens=False
    )
    if finding.advice:
        lines += textwrap.wrap(
            f"-> {finding.advice}",
            WIDTH - TOPIC,
            subsequent_indent="   ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return f"{finding.topic:<{TOPIC}}" + f"\n{indent}".join(lines)


def _torch() -> Finding:
    """PyTorch, without which wkv runs nothing."""
    try:
        import torch

        return Finding("torch", str(torch.__version__))
    except Exception as error:  # a broken installation throws anything, OSError for one
        text = " ".join(str(error).split())[:200]
        return Finding(
            "torch",
            f"it cannot be imported ({type(error).__name__}: {text}); no model can run",
            "reinstall it: pip install --force-reinstall torch",
        )


def _extras() -> list[Finding]:
    """A line for the packages that are there, and one for each that is not."""
    there, missing = [], []
    for name, (brings, line) in EXTRAS.items():
        try:
            there.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(Finding(name, f"not installed; it brings {brings}", line))
    return [*([Finding("extras", ", ".join(there))] if there else []), *missing]


def _vocabulary() -> Finding:
    """The vocabulary of the World models."""
    from wkv.tokenizers.world import official_vocabulary

    try:
        return Finding("world", f"the vocabulary is there: {official_vocabulary()}")
    except Exception:  # TokenizerError says the same at greater length
        return Finding("world", "the World vocabulary is missing", "pip install rwkv")


def _pile_tokenizer() -> Finding:
    """The tokenizer of the Pile and Raven models."""
    from huggingface_hub import try_to_load_from_cache

    from wkv.tokenizers.pile import HUB_NAME

    found = try_to_load_from_cache(HUB_NAME, "tokenizer.json")
    if isinstance(found, str):
        return Finding("20b", f"the tokenizer is there: {found}")
    return Finding(
        "20b", "the tokenizer of Pile and Raven models comes from the hub when one is first used"
    )


def _hub() -> Finding:
    """Where models are fetched from."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return Finding(
            "hub", f"{constants.ENDPOINT}, offline", "unset HF_HUB_OFFLINE to fetch models"
        )
    return Finding("hub", f"{constants.ENDPOINT} (another one: HF_ENDPOINT)")


def _cache() -> Finding:
    """Where what was fetched is kept, and the room there."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free / 1e9
    advice = "make room, or set HF_HOME to a folder on another disk" if free < 1 else ""
    return Finding("cache", f"{folder}, {free:.0f} GB free on that disk", advice)


def _models() -> Finding:
    """The models of the catalog that are here."""
    from wkv.cli.fetching import in_words
    from wkv.hub import cached, entries

    here = [
        f"{entry.name} ({in_words(path.stat().st_size)})"
        for entry in entries()
        if (path := cached(entry)) is not None
    ]
    if here:
        return Finding("models", ", ".join(here))
    return Finding("models", "the built-in one; wkv models lists those that can be fetched")


def _chats() -> list[Finding]:
    """Where saved chats lie, if there are any."""
    folder = Path.home() / ".wkv" / "chats"
    saved = sum(1 for path in folder.iterdir() if path.is_file()) if folder.is_dir() else 0
    return [Finding("chats", f"{saved} saved in {folder}")] if saved else []
