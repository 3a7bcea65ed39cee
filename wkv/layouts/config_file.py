"""The config.json of a Hugging Face directory. Sizes come from the tensors; it may only agree."""

import json
from pathlib import Path

from wkv.errors import CheckpointError
from wkv.models import Config

SIZES = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "vocab_size": "vocab_size"}
"""Keys of the file, and what they are called here."""


def check_config_file(checkpoint: Path, config: Config) -> None:
    """Compare the config.json beside a checkpoint with the sizes of its tensors; it may be missing.

    Raises:
        CheckpointError: if it cannot be read, or tells other sizes.
    """
    path = checkpoint.with_name("config.json")
    if not path.is_file():
        return
    try:
        told = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"its config.json cannot be read ({error}); fetch it again"
        ) from error
    if not isinstance(told, dict):
        raise CheckpointError("its config.json holds no JSON object; fetch it again")
    for key, name in SIZES.items():
        expected = getattr(config, name)
        if key in told and told[key] != expected:
            raise CheckpointError(
                f"config.json says {key} = {told[key]!r} and the tensors have {expected}; they do "
                "not belong together, fetch the directory again"
            )
