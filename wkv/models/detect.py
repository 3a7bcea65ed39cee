"""Detect the generation of a checkpoint from the names and shapes of its tensors.

The result depends neither on the order of the tensors nor on the name of the file.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from wkv.errors import CheckpointError
from wkv.models import parts, rwkv4, rwkv5, rwkv6, rwkv7, rwkv7a
from wkv.models.parts import Config, Shapes


@dataclass(frozen=True)
class Generation:
    """The functions of a generation.

    Attributes:
        read_config: derives the config from the shapes of a checkpoint's tensors.
        tensor_shapes: returns the shapes that a model of this config has.
        network: builds the PyTorch network of a config.
    """

    read_config: Callable[[Shapes], Config]
    tensor_shapes: Callable[[Any], dict[str, tuple[int, ...]]]
    network: Callable[..., parts.Skeleton]


_RWKV5 = Generation(rwkv5.config_from_shapes, rwkv5.tensor_shapes, rwkv5.RWKV5)

GENERATIONS: Mapping[str, Generation] = {
    "4": Generation(rwkv4.config_from_shapes, rwkv4.tensor_shapes, rwkv4.RWKV4),
    "5.0": _RWKV5,
    "5.1": _RWKV5,
    "5.2": _RWKV5,
    "6": Generation(rwkv6.config_from_shapes, rwkv6.tensor_shapes, rwkv6.RWKV6),
    "7": Generation(rwkv7.config_from_shapes, rwkv7.tensor_shapes, rwkv7.RWKV7),
    "7a": Generation(rwkv7a.config_from_shapes, rwkv7a.tensor_shapes, rwkv7a.RWKV7a),
}

REFUSED = (
    (
        r"blocks\.0\.qkv\.qq\.weight",
        "RWKV-7b (DeepEmbedAttention), whose state grows with the "
        "text; wkv knows 4, 5.0, 5.1, 5.2, 6, 7 and 7a",
    ),
    (
        r"(.*\.)?(emb_)?rosa\w*\..*",
        "RWKV-8 (ROSA), of which only small experiments exist; wkv knows 4, 5.0, 5.1, 5.2, 6, 7 "
        "and 7a",
    ),
    (
        r"blocks\.\d+\.att\.time_maa_rkvw_w1|blocks\.\d+\.att\.gate_w1",
        "an experimental variant of RWKV-6 (low-rank gate); wkv knows the released 6",
    ),
    (r"blocks\.\d+\.ffnPre\..*", "an experimental variant of RWKV-4 (ffnPre)"),
    (r"(blocks\.\d+\.)?tiny_.*", "an experimental variant of RWKV-4 (tiny attention: 4a or 4b)"),
    (r"head_[qk]\..*", "an experimental variant of RWKV-4 (head_q and head_k)"),
    (r"pos_emb_.*", "an experimental variant of RWKV-4 (position embedding)"),
    (
        r"blocks\.\d+\.att\.(qq|kk|vv|oo)\..*",
        "an experimental hybrid with attention (qq, kk, vv, oo)",
    ),
)
"""Patterns of tensor names that identify models wkv cannot run, and a description of each."""

PARTS = (
    (
        r"(.*\.)?(lora_[AB]|lora_[ab]|lora_magnitude_vector|miss_block|disha|bone)(\..*)?"
        r"|blocks\.\d+\.(att|ffn)\.\w+\.lora\.[01]",
        "an adapter (LoRA), not a whole model; load its base model with --adapter (in Python "
        "adapter=), or merge both with wkv merge",
    ),
    (
        r"blocks\.\d+\.att\.(time_state|ts_state)",
        "a tuned state, not a model; load the model that it was tuned for, then this file with "
        "State.load or --state",
    ),
    (
        r"layers\.\d+\.(att_shift|wkv|ffn_shift)",
        "a saved state of wkv, not a model; load its model, then the state with State.load",
    ),
)
"""Patterns of tensor names of files that belong to a model, and what each is and needs."""

OTHERS = (
    (r"(model\.)?layers\.\d+\.self_attn\.kv_a_proj_with_mqa\.weight", "a DeepSeek model"),
    (r"(model\.)?layers\.\d+\.block_sparse_moe\..*", "a Mixtral model"),
    (r"(model\.)?layers\.\d+\.pre_feedforward_layernorm\..*", "a Gemma model"),
    (r"(model\.)?layers\.\d+\.self_attn\.(q_norm|k_norm)\.weight", "a Qwen3 model"),
    (r"(model\.)?layers\.\d+\.self_attn\.q_proj\.bias", "a Qwen2 model"),
    (r"(model\.)?layers\.\d+\.self_attn\.qkv_proj\..*", "a Phi-3 model"),
    (r"(model\.)?layers\.\d+\.self_attn\.q_proj\.weight", "a Llama or Mistral model"),
    (r"layers\.\d+\.attention\.wq\.weight", "a Llama or Mistral model"),
    (r"gpt_neox\.layers\..*", "a GPT-NeoX (Pythia) model"),
    (r"(transformer\.)?h\.\d+\.attn\.c_attn\.weight", "a GPT-2 model"),
    (r"(transformer\.)?h\.\d+\.self_attention\..*", "a BLOOM or Falcon model"),
    (r"(transformer\.)?h\.\d+\.attn\.[qk]_proj\.weight", "a GPT-J model"),
    (r"(model\.)?decoder\.layers\.\d+\..*", "an OPT model, or another encoder and decoder"),
    (r"backbone\.layers\.\d+\.mixer\..*", "a Mamba model"),
    (r"(bert|roberta)\.encoder\..*", "a BERT model"),
    (r"encoder\.block\.\d+\..*", "a T5 model"),
)
"""Patterns of tensor names that identify other architectures; the first match counts."""

FOREIGN = (
    (r"(model|rwkv)\.(layers|blocks|embeddings?)\..*", "another Hugging Face layout"),
    (r"module\..*|_forward_module\..*", "a training checkpoint with wrapped names"),
)
"""Patterns of tensor names of unsupported layouts, and a description of each."""


def detect_generation(shapes: Shapes) -> str:
    """Return the generation of a checkpoint: "4", "5.0", "5.1", "5.2", "6", "7" or "7a".

    Args:
        shapes: name to shape of every tensor.

    Raises:
        CheckpointError: for experimental variants, unsupported layouts, and other models.
    """
    for pattern, description in REFUSED:
        for name in shapes:
            if re.fullmatch(pattern, name):
                raise CheckpointError(f"this is {description} (it has the tensor {name})")
    if "emb.weight" not in shapes or "blocks.0.att.key.weight" not in shapes:
        raise CheckpointError(_not_rwkv(shapes))
    if "blocks.0.att.r_k" in shapes:
        return "7a" if "blocks.0.ffn.s_emb.weight" in shapes else "7"
    if _any(shapes, "att.time_maa_x"):
        return "6"
    if _any(shapes, "att.ln_x.weight"):
        if not _any(shapes, "att.gate.weight"):
            return "5.0"
        decay = shapes.get("blocks.0.att.time_decay", ())
        return "5.2" if len(decay) > 1 and decay[1] > 1 else "5.1"
    return "4"


def read_config(shapes: Shapes) -> Config:
    """Return the generation and the sizes of a checkpoint.

    Raises:
        CheckpointError: like `detect_generation`, and if a tensor that determines a size is
            missing or has a wrong shape.
    """
    generation = detect_generation(shapes)
    try:
        config = GENERATIONS[generation].read_config(shapes)
        heads = config.dim_att if config.n_head is None else config.n_head * (config.head_size or 0)
        if heads != config.dim_att or min(config.dim_att, config.n_embd, config.vocab_size) < 1:
            raise ValueError("the heads do not fill the time mix")
        return config
    except KeyError as error:
        raise CheckpointError(
            f"this looks like RWKV-{generation}, but the tensor {error.args[0]} is missing; "
            "the file is incomplete, fetch it again"
        ) from error
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"this looks like RWKV-{generation}, but the tensors that determine its sizes have "
            "wrong shapes; the file is damaged, fetch it again"
        ) from error


def _any(shapes: Shapes, ending: str) -> bool:
    return any(name.endswith(ending) for name in shapes)


def _not_rwkv(shapes: Shapes) -> str:
    for pattern, description in PARTS:
        for name in shapes:
            if re.fullmatch(pattern, name):
                return f"this is {description} (it has the tensor {name})"
    for pattern, description in OTHERS:
        for name in shapes:
            if re.fullmatch(pattern, name):
                return (
                    f"this is {description} (it has the tensor {name}), but wkv runs RWKV models "
                    "only; give an RWKV model (wkv models lists some)"
                )
    for pattern, description in FOREIGN:
        for name in shapes:
            if re.fullmatch(pattern, name):
                return (
                    f"this is {description} (it has the tensor {name}), which wkv cannot read; "
                    "give the original .pth, with names such as blocks.0.att.key.weight"
                )
    some = ", ".join(list(shapes)[:3]) or "none"
    return (
        f"this is not an RWKV checkpoint: found {len(shapes)} tensors ({some}, ...), expected "
        "emb.weight and blocks.0.att.key.weight among them; give an RWKV model"
    )
