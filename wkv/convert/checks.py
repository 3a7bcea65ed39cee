"""What every form for other programs has no place for."""

from wkv.errors import CheckpointError
from wkv.inference.load import Description


def check_publishable(description: Description, form: str) -> None:
    """Raise for a source that only wkv can use.

    Args:
        description: of the source.
        form: what is to be written, such as "GGUF files".

    Raises:
        CheckpointError: if it was made for a strategy, or holds a tuned initial state.
    """
    path = description.checkpoint.path
    if description.checkpoint.strategy is not None and not description.checkpoint.is_packed:
        raise CheckpointError(
            f"{path}: this file was made for the strategy {description.checkpoint.strategy}; "
            "convert the checkpoint that it was made from"
        )
    if description.tuned:
        raise CheckpointError(
            f"{path}: {form} have no place for the tuned initial state of this file; remove its "
            "time_state tensors, or use it with wkv"
        )
