"""Toolkit for RWKV language models.

    model = wkv.load("model.pth")
    for piece in wkv.stream(model, "Once upon a time"):
        print(piece, end="")

`import wkv` is fast: the modules of the names below are loaded when they are first used.
"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from wkv.errors import (
    CatalogError,
    CheckpointError,
    InputError,
    MissingExtraError,
    StateError,
    StrategyError,
    TokenizerError,
    TrainingError,
    WKVError,
)
from wkv.version import __version__

if TYPE_CHECKING:
    from wkv.evaluate.decisions import Answer, Question, decide
    from wkv.inference.generate import Completion, generate
    from wkv.inference.load import load
    from wkv.inference.model import Model
    from wkv.inference.sampling import Sampling
    from wkv.inference.stream import Stream, stream
    from wkv.models.state import State
    from wkv.train.finetune import finetune

__all__ = [
    "Answer",
    "CatalogError",
    "CheckpointError",
    "Completion",
    "InputError",
    "MissingExtraError",
    "Model",
    "Question",
    "Sampling",
    "State",
    "StateError",
    "StrategyError",
    "Stream",
    "TokenizerError",
    "TrainingError",
    "WKVError",
    "__version__",
    "decide",
    "finetune",
    "generate",
    "load",
    "stream",
]

_MODULES = {
    "Answer": "wkv.evaluate.decisions",
    "Completion": "wkv.inference.generate",
    "Model": "wkv.inference.model",
    "Question": "wkv.evaluate.decisions",
    "Sampling": "wkv.inference.sampling",
    "State": "wkv.models.state",
    "Stream": "wkv.inference.stream",
    "decide": "wkv.evaluate.decisions",
    "finetune": "wkv.train.finetune",
    "generate": "wkv.inference.generate",
    "load": "wkv.inference.load",
    "stream": "wkv.inference.stream",
}


def __getattr__(name: str) -> Any:
    if name == "Generation":
        warnings.warn("wkv.Generation is now wkv.Completion", DeprecationWarning, stacklevel=2)
        name = "Completion"
    if name not in _MODULES:
        raise AttributeError(f"module 'wkv' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
