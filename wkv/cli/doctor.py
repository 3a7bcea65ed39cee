"""Check what works on this machine and what is missing, and suggest how to fix it."""

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
from wkv.cli.tuned_info import tuned_files
from wkv.errors import install_command
from wkv.version import __version__

SUMMARY = "check what works on this machine and what is missing"

EXTRAS = {
    "matplotlib": ("the plots of wkv train and wkv bench", "train"),
    "transformers": ("wkv.hf, and more checks in wkv convert --to hf", "hf"),
    "lm_eval": ("the tasks of wkv eval --tasks", "eval"),
    "gguf": ("wkv convert --to gguf", "gguf"),
    "fastapi": ("wkv serve", "serve"),
    "llguidance": ("replies that follow a schema, in wkv serve", "serve"),
    "tiktoken": ("the cl100k_base vocabulary in wkv.compat", None),
}
"""Optional packages: what each one is needed for, and the extra of wkv that contains it."""

WIDTH = 80
TOPIC = 14


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `wkv doctor` to the parser."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the report and return 1 if wkv cannot run at all because PyTorch is broken."""
    torch = _torch()
    findings = [finding for check in _checks(not torch.advice) for finding in _run_check(check)]
    findings[1:1] = [torch]
    if args.json:
        report = {f.topic: {"found": f.found, "advice": f.advice or None} for f in findings}
        print(json.dumps(report, indent=1))
    else:
        for finding in findings:
            print(_render(finding))
    return 1 if torch.advice else 0


def _checks(with_torch: bool) -> Iterator[Callable[[], Finding | list[Finding]]]:
    """Yield all checks, in the order of the report."""
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
    if with_torch:
        yield tuned_files
    yield _chats


def _run_check(check: Callable[[], Finding | list[Finding]]) -> list[Finding]:
    """Run one check and return its findings; an error in the check becomes a finding."""
    try:
        found = check()
    except Exception as error:  # a broken installation can raise anything
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        topic = getattr(check, "__name__", "check").strip("_")
        return [Finding(topic, f"could not be checked ({text})", "reinstall wkv")]
    return found if isinstance(found, list) else [found]


def _render(finding: Finding) -> str:
    """Format a finding as text, with the advice below it."""
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
    return f"{finding.topic:<{TOPIC - 1}} " + f"\n{indent}".join(lines)


def _torch() -> Finding:
    """Check that PyTorch, which wkv requires, can be imported."""
    try:
        import torch

        return Finding("torch", str(torch.__version__))
    except Exception as error:  # a broken installation can raise anything, for example OSError
        text = " ".join(str(error).split())[:200]
        return Finding(
            "torch",
            f"cannot be imported ({type(error).__name__}: {text}); no model can run",
            "reinstall it: pip install --force-reinstall torch",
        )


def _extras() -> list[Finding]:
    """Return one finding for all installed optional packages, and one for each missing package."""
    installed, missing = [], []
    for name, (purpose, extra) in EXTRAS.items():
        try:
            installed.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            command = install_command(extra) if extra else f"pip install {name}"
            missing.append(Finding(name, f"not installed; needed for {purpose}", command))
    return [*([Finding("extras", ", ".join(installed))] if installed else []), *missing]


def _vocabulary() -> Finding:
    """Check that the vocabulary of the World models is installed."""
    from wkv.tokenizers.world import official_vocabulary

    try:
        return Finding("world", f"the vocabulary is installed: {official_vocabulary()}")
    except Exception:  # the message of TokenizerError is too long for this report
        return Finding("world", "the World vocabulary is missing", "pip install rwkv")


def _pile_tokenizer() -> Finding:
    """Check whether the tokenizer of the Pile and Raven models is cached."""
    from huggingface_hub import try_to_load_from_cache

    from wkv.tokenizers.pile import HUB_NAME

    found = try_to_load_from_cache(HUB_NAME, "tokenizer.json")
    if isinstance(found, str):
        return Finding("20b", f"the tokenizer is cached: {found}")
    return Finding(
        "20b", "the tokenizer of Pile and Raven models is downloaded from the hub on first use"
    )


def _hub() -> Finding:
    """Report the hub that models are downloaded from."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return Finding(
            "hub", f"{constants.ENDPOINT}, offline", "unset HF_HUB_OFFLINE to download models"
        )
    return Finding("hub", f"{constants.ENDPOINT} (set HF_ENDPOINT to use another one)")


def _cache() -> Finding:
    """Report the folder of downloaded models, and the free space on its disk."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free / 1e9
    advice = "free some space, or set HF_HOME to a folder on another disk" if free < 1 else ""
    return Finding("cache", f"{folder}, {free:.0f} GB free on that disk", advice)


def _models() -> Finding:
    """Report the downloaded models of the catalog."""
    from wkv.cli.fetching import in_words
    from wkv.hub import cached, entries

    downloaded = [
        f"{entry.name} ({in_words(path.stat().st_size)})"
        for entry in entries()
        if (path := cached(entry)) is not None
    ]
    if downloaded:
        return Finding("models", ", ".join(downloaded))
    return Finding("models", "only the built-in one; wkv models lists those you can download")


def _chats() -> list[Finding]:
    """Report the folder of saved chats, or nothing if there are none."""
    folder = Path.home() / ".wkv" / "chats"
    saved = sum(1 for path in folder.iterdir() if path.is_file()) if folder.is_dir() else 0
    return [Finding("chats", f"{saved} saved in {folder}")] if saved else []
