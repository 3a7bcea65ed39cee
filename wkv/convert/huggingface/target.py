"""Contents of a Hugging Face directory for each generation: tensor names, classes, config files."""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wkv.checkpoint import Checkpoint
from wkv.checkpoint.layouts import FLA7, FOLDER_LAYOUTS, HUB, OFFICIAL_2026, read_config_file
from wkv.checkpoint.layouts.rules import Rule
from wkv.errors import InputError
from wkv.models import Config

LAYER_NORM_EPS = 1e-5

CONTEXTS = {"4": 1024}
"""Context lengths of generations whose default is not CONTEXT."""

CONTEXT = 4096
"""Context length that is assumed if neither a config.json nor the file name states one."""

UNKNOWN = "unknown"
"""The hub's name for an unstated license."""

Fields = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """A layout to write.

    Attributes:
        layout: "hub", "fla" or "official".
        rules: rules for the tensor names.
        model_type: the model type in config.json.
        stem: the prefix of the class names, such as `RWKV7` in `RWKV7ForCausalLM`.
        code: the end of the names of the wkv.hf modules whose code is written next to the weights,
            such as "rwkv7"; None: no code is.
        fields: returns the remaining fields of config.json.
        context_key: the name of the context length in config.json.
    """

    layout: str
    rules: tuple[Rule, ...]
    model_type: str
    stem: str
    code: str | None
    fields: Callable[[Config], Fields]
    context_key: str = "max_position_embeddings"


def target_for(config: Config, layout: str | None = None) -> Target:
    """Return the target for a generation; "official" is the layout of 2026-08, for RWKV-7 only.

    Raises:
        InputError: if the generation does not have this layout.
    """
    usual = TARGETS[config.generation]
    if layout is None or layout == usual.layout:
        return usual
    if layout == OFFICIAL.layout and config.generation == "7":
        return OFFICIAL
    also = " or official" if config.generation == "7" else ""
    raise InputError(
        f"RWKV-{config.generation} has no layout {layout!r}; expected {usual.layout}{also}"
    )


def config_file(
    config: Config, target: Target, *, context: int, dtype: str, padding_id: int
) -> Fields:
    """Return the contents of config.json."""
    code: Fields = {}
    if target.code is not None:
        stem, model = target.stem, f"modeling_{target.code}"
        code = {
            "AutoConfig": f"configuration_{target.code}.{stem}Config",
            "AutoModel": f"{model}.{stem}Model",
            "AutoModelForCausalLM": f"{model}.{stem}ForCausalLM",
        }
    return {
        "architectures": [f"{target.stem}ForCausalLM"],
        **({"auto_map": code} if code else {}),
        "model_type": target.model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.n_embd,
        "num_hidden_layers": config.n_layer,
        "intermediate_size": config.dim_ffn,
        target.context_key: context,
        **target.fields(config),
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": padding_id,
        "tie_word_embeddings": False,
        "use_cache": True,
        "dtype": dtype,
        "torch_dtype": dtype,
    }


def generation_file(padding_id: int) -> Fields:
    """Return the contents of generation_config.json.

    Source of the values: ChatRWKV, API_DEMO_CHAT.
    """
    return {
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": padding_id,
        "do_sample": True,
        "temperature": 1.0,
        "top_p": 0.3,
        "top_k": 0,
        "max_new_tokens": 512,
    }


def context_of(config: Config, checkpoint: Checkpoint) -> int:
    """Return the context length that the model was trained with.

    It is read from a directory's config.json, or from the file name (`ctx8192`); otherwise the
    default of the generation is returned.
    """
    if checkpoint.layout in FOLDER_LAYOUTS:
        fields = read_config_file(checkpoint.path)
        for key in ("max_position_embeddings", "context_length"):
            if type(fields.get(key)) is int and fields[key] > 0:
                return int(fields[key])
    named = re.search(r"ctx(\d{3,8})", checkpoint.path.name)
    return int(named[1]) if named else CONTEXTS.get(config.generation, CONTEXT)


def license_of(checkpoint: Checkpoint) -> str | None:
    """Return the license that a directory's model card states, or None."""
    card = checkpoint.path.with_name("README.md")
    if checkpoint.layout not in FOLDER_LAYOUTS or not card.is_file():
        return None
    header = card.read_text(encoding="utf-8", errors="replace").partition("\n---")[0]
    stated = re.search(r"^license: *([\w.-]+) *$", header, re.MULTILINE)
    return stated[1] if stated and stated[1] != UNKNOWN else None


def name_of(checkpoint: Checkpoint) -> str:
    """Return the name of a checkpoint: that of its file or its directory."""
    path = checkpoint.path.absolute()
    return path.parent.name if checkpoint.layout in FOLDER_LAYOUTS else path.name


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    """Write an indented JSON file."""
    path.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _fields_4(config: Config) -> Fields:
    return {
        "attention_hidden_size": config.dim_att,
        "layer_norm_epsilon": LAYER_NORM_EPS,
        "rescale_every": 0,  # otherwise transformers divides the weights, and saves them divided
    }


def _fields_5_and_6(config: Config) -> Fields:
    return {
        "attention_hidden_size": config.dim_att,
        "head_size": config.head_size,
        # The norm per head has the eps layer_norm_epsilon * head_size_divisor^2.
        "head_size_divisor": round(math.sqrt(config.group_norm_eps / LAYER_NORM_EPS), 6),
        "layer_norm_epsilon": LAYER_NORM_EPS,
        "rescale_every": 0,
    }


def _fields_5(config: Config) -> Fields:
    return _fields_5_and_6(config) | {"rwkv_generation": config.generation}


def _fields_6(config: Any) -> Fields:
    return _fields_5_and_6(config) | {
        "lora_rank_tokenshift": config.mix_rank,
        "lora_rank_decay": config.decay_rank,
    }


def _fields_7(config: Any) -> Fields:
    return {
        "attn_mode": "chunk",
        "hidden_ratio": config.dim_ffn / config.n_embd,
        "head_dim": config.head_size,
        "num_heads": config.n_head,
        "decay_low_rank_dim": config.decay_rank,
        "a_low_rank_dim": config.a_rank,
        "v_low_rank_dim": config.value_rank,
        "gate_low_rank_dim": config.gate_rank,
        "hidden_act": "sqrelu",
        "norm_first": True,
        "norm_bias": True,
        "norm_eps": LAYER_NORM_EPS,
        "group_norm_eps": config.group_norm_eps,  # fla uses norm_eps times the head size instead
        "attn": None,
        "fuse_norm": False,
        "value_dim": [config.dim_att] * config.n_layer,
        "initializer_range": 0.02,
    }


def _fields_7a(config: Any) -> Fields:
    return _fields_7(config) | {"deep_embed_rank": config.deep_rank}


def _fields_official(config: Any) -> Fields:
    fields = _fields_7(config)
    for name in ("attn_mode", "hidden_ratio", "norm_first", "attn", "fuse_norm", "value_dim"):
        del fields[name]
    return fields | {"wkv_state_dtype": "float32"}


_FIVE = Target("hub", HUB, "rwkv5", "Rwkv5", "rwkv5", _fields_5)

TARGETS: Mapping[str, Target] = {
    "4": Target("hub", HUB, "rwkv", "Rwkv", "rwkv4", _fields_4, "context_length"),
    "5.0": _FIVE,
    "5.1": _FIVE,
    "5.2": _FIVE,
    "6": Target("hub", HUB, "rwkv6", "Rwkv6", "rwkv6", _fields_6),
    "7": Target("fla", FLA7, "rwkv7", "RWKV7", "rwkv7", _fields_7),
    "7a": Target("fla", FLA7, "rwkv7a", "RWKV7a", "rwkv7a", _fields_7a),
}

OFFICIAL = Target("official", OFFICIAL_2026, "rwkv7", "Rwkv7", None, _fields_official)
"""The directories of 2026-08; transformers is expected to include their code."""
