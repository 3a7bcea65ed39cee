"""Contents of a GGUF file of RWKV-6 and 7: tensors, their dtypes, and metadata.

`wkv.checkpoint.layouts.gguf` has the names and shapes, with which files are read as well.
Sources: llama.cpp, conversion/rwkv.py and src/llama-quant.cpp; the keys of the gguf package.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from wkv.checkpoint.layouts.gguf import RULES, SHIFTS
from wkv.checkpoint.layouts.rules import foreign_tensors
from wkv.convert.huggingface.target import LAYER_NORM_EPS, generation_file
from wkv.convert.huggingface.tokenizer_files import START_OF_TEXT, chat_template_text
from wkv.errors import InputError
from wkv.tokenizers.tokenizer_json import special_names
from wkv.tokenizers.world import WorldTokenizer

KINDS = {"fp32": "F32", "fp16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}
"""wkv's dtype names, and GGUF's names for them."""

FILE_TYPES = {"fp32": 0, "fp16": 1, "bf16": 32, "q8_0": 7}
"""llama.cpp's numbers for files whose matrices mostly have a dtype."""

BLOCK = 32
"""Values that share one scale in Q8_0."""

ENDLESS = 2**20
"""Context length in the file; llama.cpp requires one, although RWKV has no limit."""

NORMAL, CONTROL, UNUSED = 1, 3, 5
"""GGUF's token types."""

IN_FLOAT32 = re.compile(r".*\.time_mix_(first|w1|w2|decay_w1|decay_w2|lerp_fused)\.weight")
"""Tensors that llama.cpp only reads in float32, in addition to all tensors with one axis."""

LOW_RANK = re.compile(r".*\.time_mix_[avg][12]\.weight")
"""Tensors that llama.cpp never quantizes."""


def gguf_tensors(generation: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return official tensors with the names and shapes of GGUF."""
    prefix, letters = SHIFTS[generation]
    stacks: dict[str, Tensor] = {}
    others: dict[str, Tensor] = {}
    shift = re.compile(rf"blocks\.(\d+)\.att\.{prefix}[{letters}]")
    for name, tensor in tensors.items():
        found = shift.fullmatch(name)
        if found is None:
            others[name] = tensor
            continue
        stack = f"blk.{found[1]}.time_mix_lerp_fused.weight"
        if stack not in stacks:
            shifts = (tensors[f"{name[:-1]}{letter}"].reshape(1, 1, -1) for letter in letters)
            stacks[stack] = torch.stack(tuple(shifts))
    named = foreign_tensors(others, RULES[generation])
    if generation == "7":
        for part in "012":
            named[f"blk.0.time_mix_v{part}.weight"] = named[f"blk.0.time_mix_a{part}.weight"]
    return named | stacks


def kind_of(name: str, shape: tuple[int, ...], dtype: str) -> str:
    """Return GGUF's dtype of a tensor, in a file whose matrices have the given dtype."""
    if len(shape) < 2 or IN_FLOAT32.fullmatch(name):
        return "F32"
    if dtype == "q8_0" and (LOW_RANK.fullmatch(name) or shape[-1] % BLOCK):
        return "F16"
    return KINDS[dtype]


def metadata(config: Any, name: str, dtype: str, tokenizer: WorldTokenizer) -> dict[str, Any]:
    """Return the metadata of a file: key to number, text or list.

    Args:
        config: configuration of an RWKV-6 or 7.
        name: name of the model.
        dtype: dtype of the matrices, one of `KINDS`.
        tokenizer: the tokenizer whose vocabulary is written.

    Raises:
        InputError: if llama.cpp cannot use the vocabulary.
        TokenizerError: if the vocabulary has more ids than the model.
    """
    arch, sampling = f"rwkv{config.generation}", generation_file(padding_id=0)
    sizes = {
        "context_length": ENDLESS,
        "embedding_length": config.n_embd,
        "block_count": config.n_layer,
        "feed_forward_length": config.dim_ffn,
        "attention.head_count": 0,  # llama.cpp requires it but does not use it
        "attention.layer_norm_epsilon": LAYER_NORM_EPS,
        "wkv.head_size": config.head_size,
        **(_ranks_6(config) if config.generation == "6" else _ranks_7(config)),
    }
    return {
        "general.type": "model",
        "general.name": name,
        "general.file_type": FILE_TYPES[dtype],
        "general.quantization_version": 2,
        "general.sampling.temp": sampling["temperature"],
        "general.sampling.top_p": sampling["top_p"],
        "general.sampling.top_k": sampling["top_k"],
        **{f"{arch}.{key}": value for key, value in sizes.items()},
        **_vocabulary(tokenizer, config.vocab_size),
        "tokenizer.chat_template": _chat_template(config.generation),
    }


def _ranks_6(config: Any) -> dict[str, int]:
    return {
        # With another value llama.cpp halves the activations, which requires rescaled weights.
        "rescale_every_n_layers": 0,
        "time_mix_extra_dim": config.mix_rank,
        "time_decay_extra_dim": config.decay_rank,
    }


def _ranks_7(config: Any) -> dict[str, int]:
    return {
        "attention.decay_lora_rank": config.decay_rank,
        "attention.iclr_lora_rank": config.a_rank,
        "attention.value_residual_mix_lora_rank": config.value_rank,
        "attention.gate_lora_rank": config.gate_rank,
    }


def _vocabulary(tokenizer: WorldTokenizer, vocab_size: int) -> dict[str, Any]:
    """Return the metadata of the vocabulary; tokens are written in ASCII with Python's escapes.

    The blank line is declared as the end-of-turn token, because otherwise replies in llama.cpp's
    chat would not end.
    """
    entries = tokenizer.entries
    missing = 256 - len({text for text in entries.values() if len(text) == 1})
    if missing:
        raise InputError(
            f"the vocabulary {tokenizer.name} lacks {missing} of the 256 single bytes, which "
            "llama.cpp requires; use a vocabulary that contains all of them"
        )
    names = special_names(entries, vocab_size)
    spelled = names | {token: escaped(text) for token, text in entries.items()}
    kinds = dict.fromkeys(names, UNUSED) | dict.fromkeys(entries, NORMAL) | {0: CONTROL}
    ends_turn = next((token for token, text in entries.items() if text == b"\n\n"), None)
    return {
        "tokenizer.ggml.model": "rwkv",
        "tokenizer.ggml.tokens": [spelled[token] for token in range(vocab_size)],
        "tokenizer.ggml.token_type": [kinds[token] for token in range(vocab_size)],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
        **({} if ends_turn is None else {"tokenizer.ggml.eot_token_id": ends_turn}),
    }


def escaped(text: bytes) -> str:
    r"""Escape bytes as llama.cpp expects: printable ASCII unchanged, others as \n, \\ or \xff."""
    return text.decode("latin-1").encode("unicode_escape").decode("ascii")


def _chat_template(generation: str) -> str:
    """Return wkv's chat template, after a name that llama.cpp recognizes without running Jinja."""
    start = START_OF_TEXT if generation == "7" else ""
    return "{#- rwkv-world -#}\n" + start + chat_template_text("world")
