"""Check for properties of a checkpoint that should not be published for other programs."""

from wkv.errors import CheckpointError
from wkv.inference.describe import Description


def check_publishable(description: Description, target: str) -> None:
    """Raise an error if only wkv can use a checkpoint.

    Args:
        description: the checkpoint.
        target: the format to write, in the plural, such as "GGUF files".

    Raises:
        CheckpointError: if it was converted for a strategy, or contains a tuned initial state.
    """
    path = description.checkpoint.path
    if description.checkpoint.strategy is not None and not description.checkpoint.is_packed:
        raise CheckpointError(
            f"{path}: this file was made for the strategy {description.checkpoint.strategy}; "
            "convert the original checkpoint instead"
        )
    if description.tuned:
        raise CheckpointError(
            f"{path}: {target} cannot contain the tuned initial state of this file; take it out "
            "with wkv convert --to pth-state, and convert the model without it"
        )
