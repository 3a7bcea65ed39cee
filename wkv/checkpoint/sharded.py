"""Open sharded checkpoints: several files and an index that maps each tensor to its file."""

import json
import re
from pathlib import Path

from wkv.checkpoint.pth import open_pth
from wkv.checkpoint.safetensors import open_safetensors
from wkv.checkpoint.tensors import Checkpoint, first_sentence
from wkv.errors import CheckpointError

SHARD = re.compile(r"(.+)-\d+-of-\d+(\.safetensors|\.bin)")

OPENERS = {".safetensors": open_safetensors, ".bin": open_pth}


def index_of_shard(path: Path) -> Path:
    """Return the index of a shard such as `model-00001-of-00002.safetensors`.

    Raises:
        CheckpointError: if the index is not in the shard's folder.
    """
    index = path.with_name(SHARD.sub(r"\1\2.index.json", path.name))
    if not index.is_file():
        raise CheckpointError(
            f"{path}: this is one of several shards and its index {index.name} is missing; fetch "
            "the index and all shards"
        )
    return index


def open_sharded(index: Path) -> Checkpoint:
    """Open a sharded checkpoint from its index.

    Raises:
        CheckpointError: if the index cannot be read, or does not match the shards.
    """
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
        file_of = {str(name): str(file) for name, file in weight_map.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{index}: the index cannot be read ({first_sentence(error)}), expected a JSON object "
            "with a weight_map; fetch the index again"
        ) from error
    shards = {}
    for file in sorted(set(file_of.values())):
        if Path(file).name != file:
            raise CheckpointError(f"{index}: the index names {file!r}, which is outside its folder")
        if not (index.parent / file).is_file():
            raise CheckpointError(f"{index}: the shard {file} is missing; fetch it to this folder")
        opener = OPENERS.get(Path(file).suffix)
        if opener is None:
            raise CheckpointError(f"{index}: {file!r} is neither a .safetensors nor a .bin file")
        shards[file] = opener(index.parent / file)
    for name, file in file_of.items():
        if name not in shards[file]:
            raise CheckpointError(
                f"{index}: the tensor {name} is not in {file}, so the index does not match the "
                "shards; fetch all of them again"
            )
    return Checkpoint(
        index,
        next(iter(shards.values())).layout if shards else "safetensors",
        {name: shards[file].shapes[name] for name, file in file_of.items()},
        {name: shards[file].dtypes[name] for name, file in file_of.items()},
        lambda name: shards[file_of[name]][name],
        shards=tuple(index.parent / file for file in shards),
    )
