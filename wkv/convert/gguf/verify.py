"""Verification of a GGUF file: its contents and, if it is installed, the results of llama.cpp."""

from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wkv.checkpoint.layouts.gguf import official_tensors
from wkv.convert.gguf.target import BLOCK
from wkv.convert.verify import TEXT, check_equal, check_logits, check_tokens
from wkv.inference.describe import Description
from wkv.inference.load import build_model, strategy_for
from wkv.tokenizers.world import WorldTokenizer


def check_file(
    path: Path, description: Description, fields: dict[str, Any], n_tensors: int
) -> None:
    """Read a GGUF file, and compare each tensor and each metadata field with the source.

    Args:
        path: the file.
        description: the source.
        fields: the expected metadata.
        n_tensors: the expected number of tensors.

    Raises:
        CheckpointError: if anything differs; names the first tensor or field.
    """
    from gguf import GGUFReader, dequantize

    reader = GGUFReader(path)
    wrong = [key for key, value in fields.items() if not _same_field(reader, key, value)]
    missing = set(description.shapes)
    for tensor in reader.tensors:
        shape = tuple(int(size) for size in reversed(tensor.shape))
        values = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type)))
        for name, part in official_tensors(
            description.config.generation, tensor.name, values.reshape(shape)
        ):
            missing.discard(name)
            if not _is_rounded(description.checkpoint[name], part, tensor.tensor_type.name):
                wrong.append(name)
    wrong += sorted(missing)
    if len(reader.tensors) != n_tensors:
        wrong.append("the number of tensors")
    check_equal(path, wrong, "tensors or fields")


def _same_field(reader: Any, key: str, value: Any) -> bool:
    """Return whether a metadata field of a file has this value."""
    field = reader.get_field(key)
    found = None if field is None else field.contents()
    return found == (float(np.float32(value)) if isinstance(value, float) else value)


def _is_rounded(source: Tensor, found: Tensor, kind: str) -> bool:
    """Return whether `found` has the values of `source`, rounded to the GGUF dtype `kind`.

    Q8_0 rounds to steps of 1/127 of the largest value of a block. The step is stored as float16,
    which adds a rounding error of 2^-11 of up to 127 steps.
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


def compare_with_llama(
    path: Path, source: Description, tokenizer: WorldTokenizer, dtype: str
) -> tuple[float | None, str]:
    """Return the largest difference of logits between wkv in float32 and llama.cpp.

    Args:
        path: the file.
        source: the source; it cannot be used afterwards, because its network is filled.
        tokenizer: the tokenizer whose token ids llama.cpp must return.
        dtype: dtype of the matrices in the file; the difference is only limited for "fp32".

    Returns:
        The difference and "", or None and why llama.cpp was not used.

    Raises:
        CheckpointError: if the tokens differ, or the logits differ by more than the limit.
    """
    if find_spec("llama_cpp") is None:
        return None, "it is not installed: pip install llama-cpp-python"
    from llama_cpp import Llama

    ids = tokenizer.encode(TEXT)
    options: dict[str, Any] = {"n_gpu_layers": 0, "logits_all": True, "verbose": False}
    with closing(Llama(str(path), n_ctx=512, **options)) as llama:
        found_ids = llama.tokenize(TEXT.encode(), add_bos=False, special=False)
        check_tokens(path, "llama.cpp", ids, found_ids)
        llama.eval(ids)
        found = torch.from_numpy(np.array(llama.scores[: len(ids)]))
    model = build_model(source, strategy_for(source, "cpu fp32"), tokenizer)
    expected, _ = model.forward(ids, all_logits=True)
    difference = float((expected - found).abs().max())
    if dtype == "fp32":
        check_logits(path, "llama.cpp", difference, expected)
    return difference, ""
