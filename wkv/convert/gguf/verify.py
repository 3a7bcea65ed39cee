"""Proof that a GGUF file is the same model: by its values and, where it is there, by llama.cpp."""

from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wkv.convert.gguf.target import BLOCK, official_tensors
from wkv.errors import CheckpointError
from wkv.inference.load import Description, build_model, strategy_for
from wkv.tokenizers.world import WorldTokenizer

TEXT = "The Duchess said: 27 + 48 = 75, 今天天气不错 😀\n\n    return x[0]\n"
"""Read by wkv and llama.cpp; its words are in no vocabulary alone."""

LIMIT = 1e-3
"""Largest difference between wkv and llama.cpp in float32, for logits of size 1."""


def check_file(
    path: Path, description: Description, fields: dict[str, Any], n_tensors: int
) -> None:
    """Read a file again; each tensor and each field is compared with what the source says.

    Args:
        path: the file.
        description: of the source.
        fields: the metadata that it is to hold.
        n_tensors: how many tensors it is to hold.

    Raises:
        CheckpointError: names the first part that differs.
    """
    from gguf import GGUFReader, dequantize

    reader = GGUFReader(path)
    wrong = [key for key, value in fields.items() if not _same_field(reader, key, value)]
    missing = set(description.network.state_dict())
    for tensor in reader.tensors:
        shape = tuple(int(size) for size in reversed(tensor.shape))
        values = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type)))
        for name, part in official_tensors(
            description.config.generation, tensor.name, values.reshape(shape)
        ):
            missing.discard(name)
            if not _agrees(description.checkpoint[name], part, tensor.tensor_type.name):
                wrong.append(name)
    wrong += sorted(missing)
    if wrong or len(reader.tensors) != n_tensors:
        raise CheckpointError(
            f"{path}: {len(wrong)} parts of the new file differ from those of its source, the "
            f"first is {(wrong or ['the number of tensors'])[0]}; it was not kept. Is the disk "
            "sound?"
        )


def _same_field(reader: Any, key: str, value: Any) -> bool:
    """Whether a field of a file holds a value."""
    field = reader.get_field(key)
    found = None if field is None else field.contents()
    return found == (float(np.float32(value)) if isinstance(value, float) else value)


def _agrees(source: Tensor, found: Tensor, kind: str) -> bool:
    """Whether values are the source's, rounded as the kind rounds.

    Q8_0 rounds to steps of a 127th of a block's largest value; the step is a float16 itself, which
    adds its own rounding, 2^-11 of up to 127 steps.
    """
    if source.numel() != found.numel():
        return False
    expected, found = source.float().reshape(-1), found.reshape(-1)
    if kind == "Q8_0":
        expected, found = expected.reshape(-1, BLOCK), found.reshape(-1, BLOCK)
        step = expected.abs().amax(1, keepdim=True) / 127
        limit = step * (0.5 + 127 * 2**-11) + 127 * 2**-25
        return bool(((expected - found).abs() <= limit).all())
    rounded = {"F16": torch.float16, "BF16": torch.bfloat16}.get(kind, torch.float32)
    return torch.allclose(expected.to(rounded).float(), found, rtol=0, atol=0, equal_nan=True)


def ask_llama(
    path: Path, source: Description, tokenizer: WorldTokenizer, dtype: str
) -> tuple[float | None, str]:
    """The largest difference of logits between wkv in float32 and llama.cpp.

    Args:
        path: the file.
        source: is used up.
        tokenizer: whose tokens llama.cpp is to make.
        dtype: of the matrices in the file; a difference has a limit where it is "fp32".

    Returns:
        The difference and "", or None and why llama.cpp was not asked.

    Raises:
        CheckpointError: if the tokens differ, or the logits do beyond the limit.
    """
    if find_spec("llama_cpp") is None:
        return None, "it is not installed: pip install llama-cpp-python"
    from llama_cpp import Llama

    ids = tokenizer.encode(TEXT)
    options: dict[str, Any] = {"n_gpu_layers": 0, "logits_all": True, "verbose": False}
    with closing(Llama(str(path), n_ctx=512, **options)) as llama:
        told = llama.tokenize(TEXT.encode(), add_bos=False, special=False)
        if told != ids:
            raise CheckpointError(
                f"{path}: llama.cpp makes other tokens of a text than wkv; the file was not kept. "
                "Please report this, with the name of the model"
            )
        llama.eval(ids)
        found = torch.from_numpy(np.array(llama.scores[: len(ids)]))
    model = build_model(source, strategy_for(source, "cpu fp32"), tokenizer)
    expected, _ = model.forward(ids, all_logits=True)
    difference = float((expected - found).abs().max())
    if dtype == "fp32" and not difference <= LIMIT * max(1.0, float(expected.abs().max())):
        raise CheckpointError(
            f"{path}: the logits of llama.cpp differ by {difference:.3g} from those of wkv; the "
            "file was not kept. Please report this, with the name of the model"
        )
    return difference, ""
