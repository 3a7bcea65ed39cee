"""Every error a user of wkv can cause, as one tree.

    WKVError
    ├── CheckpointError      a file that cannot be read as a checkpoint, or holds an unknown model
    ├── CatalogError         a model's name that is not in the catalog, or its file not to be had
    ├── StateError           a state that is damaged, or belongs to another model or batch
    ├── TokenizerError       text, ids or a vocabulary file that cannot be used
    ├── StrategyError        a device or dtype that was asked for and is not to be had
    ├── InputError           a wrong argument: an empty prompt, an id out of range, a wrong shape
    ├── BusyError            more work was given than can be taken now
    ├── MissingExtraError    an optional dependency that is not installed
    └── TrainingError        training data or a run folder that cannot be used

A message is one sentence (or two) that says what was found, what was expected and what to do.
"""


class WKVError(Exception):
    """Base of all errors that wkv raises on purpose."""


class CheckpointError(WKVError):
    """A file cannot be read as a checkpoint, or its tensors are not those of a known model."""


class CatalogError(WKVError):
    """A model's name is not in the catalog, or its file cannot be had from the hub."""


class StateError(WKVError):
    """A state is damaged, or belongs to another model, generation or batch size."""


class TokenizerError(WKVError):
    """Text, ids or a vocabulary file cannot be used by a tokenizer."""


class StrategyError(WKVError):
    """A strategy string is wrong, or names a device or dtype that is not available."""


class InputError(WKVError, ValueError):
    """An argument is wrong: an empty prompt, an id out of range, a wrong shape or value."""


class BusyError(WKVError):
    """More work was given than can be taken now; the same later may be taken."""


class MissingExtraError(WKVError, ImportError):
    """An optional dependency is not installed; the message holds the pip line."""


class TrainingError(WKVError):
    """Training data or the folder of a run cannot be used."""
