"""The hierarchy of all errors that wkv raises for its users.

    WKVError
    ├── CheckpointError      a file is not a readable checkpoint, or holds an unknown model
    ├── CatalogError         a model's name is not in the catalog, or its file is not available
    ├── StateError           a state is damaged, or belongs to another model or batch size
    ├── TokenizerError       text, ids or a vocabulary file cannot be used
    ├── StrategyError        a strategy string is wrong, or its device or dtype is not available
    ├── InputError           an argument is wrong: an empty prompt, an id out of range
    ├── BusyError            the queue of waiting work is full
    ├── MissingExtraError    an optional dependency is not installed
    └── TrainingError        training data or a run folder cannot be used

A message has one or two sentences. It says what was found, what was expected and what to do.
"""

import re
from importlib.metadata import PackageNotFoundError, requires

REQUIREMENT = re.compile(r"(\w[\w.-]*)(?:\[(\w+)\])?.*extra == [\"'](\w+)[\"']")
"""A package, its own extra, and the extra of wkv that requires it."""


class WKVError(Exception):
    """The base class of all errors that wkv raises on purpose."""


class CheckpointError(WKVError):
    """A file cannot be read as a checkpoint, or its tensors do not match any known model."""


class CatalogError(WKVError):
    """A model's name is not in the catalog, or its file cannot be downloaded from the hub."""


class StateError(WKVError):
    """A state is damaged, or belongs to another model, generation or batch size."""


class TokenizerError(WKVError):
    """Text, ids or a vocabulary file cannot be used by a tokenizer."""


class StrategyError(WKVError):
    """A strategy string is wrong, or names a device or dtype that is not available."""


class InputError(WKVError, ValueError):
    """An argument is wrong: an empty prompt, an id out of range, a wrong shape or value."""


class BusyError(WKVError):
    """More work was submitted than can be accepted now; the same work may be accepted later."""


class MissingExtraError(WKVError, ImportError):
    """An optional dependency is not installed; the message contains the pip command."""


class TrainingError(WKVError):
    """Training data or the folder of a training run cannot be used."""


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its class without one."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def install_command(extra: str) -> str:
    """Return the pip command that installs the packages of an extra of wkv.

    It names the packages instead of wkv, so that it works for every way of installing wkv, and
    does not install wkv again.
    """
    return f"pip install -U {' '.join(_packages(extra))}"


def _packages(extra: str) -> list[str]:
    try:
        found = [match for line in requires("wkv") or () if (match := REQUIREMENT.match(line))]
    except PackageNotFoundError:  # the source tree was not installed
        found = []
    packages: list[str] = []
    for name, inner, needed_by in (match.groups() for match in found):
        if needed_by == extra:
            package = f"'{name}[{inner}]'" if inner else name
            packages += _packages(inner) if name == "wkv" else [package]
    return packages or [f"'wkv[{extra}]'"]
