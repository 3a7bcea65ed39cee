"""Random checkpoints as models of transformers: names and config told here once more, by hand."""

import torch

import wkv.hf
from tests.checkpoints import random_checkpoint

SIZES = {"n_layer": 3, "n_embd": 64, "head_size": 32, "vocab_size": 120}
GENERATIONS = ("4", "5.0", "5.1", "5.2", "6", "7", "7a")

BLOCKS = (
    ("emb.", "rwkv.embeddings."),
    (".ln0.", ".pre_ln."),
    (".att.", ".attention."),
    (".ffn.", ".feed_forward."),
    ("blocks.", "rwkv.blocks."),
    ("ln_out.", "rwkv.ln_out."),
)
MIXES = (
    (".time_mix_k", ".time_mix_key"),
    (".time_mix_v", ".time_mix_value"),
    (".time_mix_r", ".time_mix_receptance"),
    (".time_mix_g", ".time_mix_gate"),
)
LAYERS = (
    ("emb.", "model.embeddings."),
    (".ln0.", ".pre_norm."),
    (".ln1.", ".attn_norm."),
    (".ln2.", ".ffn_norm."),
    (".att.receptance.", ".attn.r_proj."),
    (".att.key.", ".attn.k_proj."),
    (".att.value.", ".attn.v_proj."),
    (".att.output.", ".attn.o_proj."),
    (".att.ln_x.", ".attn.g_norm."),
    (".att.", ".attn."),
    ("blocks.", "model.layers."),
    ("ln_out.", "model.norm."),
    ("head.", "lm_head."),
)


def renamed(name, rules):
    for old, new in rules:
        if old.startswith("."):
            name = name.replace(old, new)
        elif name.startswith(old):
            name = new + name.removeprefix(old)
    return name


def to_hub(tensors, generation):
    rules = BLOCKS if generation == "6" else BLOCKS + MIXES
    return {renamed(name, rules): tensor for name, tensor in tensors.items()}


def to_fla(tensors):
    result = {}
    for name, tensor in tensors.items():
        *_, last = name.split(".")
        if name.startswith("blocks.0.att.v") and last in ("v0", "v1", "v2"):
            continue
        name = renamed(name, LAYERS)
        if ".attn." in name and len(last) == 2 and last[1] in "012":
            place = {"0": "2.bias", "1": "0.weight", "2": "2.weight"}[last[1]]
            name = name.replace(f".{last}", f".{last[0]}_lora.lora.{place}")
            tensor = tensor.flatten() if last[1] == "0" else tensor.T.contiguous()
        elif last in ("k_k", "k_a") or name.endswith("ffn.x_k"):
            tensor = tensor.flatten()
        result[name] = tensor
    return result


def config_of(generation, tensors):
    common = {
        "vocab_size": tensors["emb.weight"].shape[0],
        "hidden_size": tensors["emb.weight"].shape[1],
        "num_hidden_layers": 1 + max(int(n.split(".")[1]) for n in tensors if "blocks" in n),
        "intermediate_size": tensors["blocks.0.ffn.key.weight"].shape[0],
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    N = SIZES["head_size"]
    if generation == "4":
        return wkv.hf.RwkvConfig(**common)
    if generation.startswith("5"):
        return wkv.hf.Rwkv5Config(**common, head_size=N, rwkv_generation=generation)
    if generation == "6":
        return wkv.hf.Rwkv6Config(
            **common,
            head_size=N,
            lora_rank_tokenshift=tensors["blocks.0.att.time_maa_w2"].shape[1],
            lora_rank_decay=tensors["blocks.0.att.time_decay_w1"].shape[1],
        )
    ranks = {
        f"{long}_low_rank_dim": tensors[f"blocks.1.att.{short}1"].shape[1]
        for long, short in (("decay", "w"), ("a", "a"), ("v", "v"), ("gate", "g"))
    }
    seven = {**common, **ranks, "head_dim": N, "group_norm_eps": 64e-5}
    if generation == "7":
        return wkv.hf.RWKV7Config(**seven)
    return wkv.hf.RWKV7aConfig(**seven, deep_embed_rank=tensors["blocks.0.ffn.s1"].shape[1])


LANGUAGE_MODELS = {config: model for config, _, model in wkv.hf.CLASSES}


def translate(generation, tensors=None):
    """Give the transformers model of a checkpoint; fails if any name or shape does not fit."""
    tensors = tensors or checkpoint(generation)
    config = config_of(generation, tensors)
    model = LANGUAGE_MODELS[type(config)](config)
    new = to_fla(tensors) if generation.startswith("7") else to_hub(tensors, generation)
    model.load_state_dict(new, strict=True)
    return model.eval()


def checkpoint(generation):
    return random_checkpoint(generation, **SIZES)


def random_ids(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, SIZES["vocab_size"], shape, generator=generator)
