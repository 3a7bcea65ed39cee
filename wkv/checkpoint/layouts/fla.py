"""The layout of flash-linear-attention (names such as model.layers.N.attn.k_proj.weight).

RWKV-7 can be read and written, RWKV-6 can only be read.

Source: fla, layers and models of rwkv6 and rwkv7, and its converters.
"""

from torch import Tensor

from wkv.checkpoint import Checkpoint
from wkv.checkpoint.layouts.rules import FLAT, TRANSPOSED, Rule, official_view
from wkv.checkpoint.layouts.view import Transform, View, view_of

_SKELETON = (
    Rule("emb.weight", "model.embeddings.weight"),
    Rule("ln_out.*", "model.norm.*"),
    Rule("head.weight", "lm_head.weight"),
    Rule("blocks.N.ln0.*", "model.layers.N.pre_norm.*"),
    Rule("blocks.N.ln1.*", "model.layers.N.attn_norm.*"),
    Rule("blocks.N.ln2.*", "model.layers.N.ffn_norm.*"),
)

FLA7 = (
    *_SKELETON,
    *(
        rule
        for low_rank in "wavg"
        for rule in (
            Rule(
                f"blocks.N.att.{low_rank}0",
                f"model.layers.N.attn.{low_rank}_lora.lora.2.bias",
                FLAT,
            ),
            Rule(
                f"blocks.N.att.{low_rank}1",
                f"model.layers.N.attn.{low_rank}_lora.lora.0.weight",
                TRANSPOSED,
            ),
            Rule(
                f"blocks.N.att.{low_rank}2",
                f"model.layers.N.attn.{low_rank}_lora.lora.2.weight",
                TRANSPOSED,
            ),
        )
    ),
    Rule("blocks.N.att.receptance.*", "model.layers.N.attn.r_proj.*"),
    Rule("blocks.N.att.key.*", "model.layers.N.attn.k_proj.*"),
    Rule("blocks.N.att.value.*", "model.layers.N.attn.v_proj.*"),
    Rule("blocks.N.att.output.*", "model.layers.N.attn.o_proj.*"),
    Rule("blocks.N.att.ln_x.*", "model.layers.N.attn.g_norm.*"),
    Rule("blocks.N.att.k_k", "model.layers.N.attn.k_k", FLAT),
    Rule("blocks.N.att.k_a", "model.layers.N.attn.k_a", FLAT),
    Rule("blocks.N.ffn.x_k", "model.layers.N.ffn.x_k", FLAT),
    Rule("blocks.N.att.*", "model.layers.N.attn.*"),
    Rule("blocks.N.ffn.*", "model.layers.N.ffn.*"),
)
"""The rules for RWKV-7. Our export of 7a uses them too; its additional tensors are unchanged."""

SHIFTS = "rwkvag"
"""The order of x_r to x_g in the tensor x_x, into which older directories stack them."""


def fla7_to_official(checkpoint: Checkpoint) -> Checkpoint:
    """View an fla checkpoint of RWKV-7 or 7a as official; a stacked `attn.x_x` is split."""
    named = official_view(checkpoint, FLA7)
    stacked = [name for name in named if name.endswith(".att.x_x")]
    views = {name: View(name, shape) for name, shape in named.shapes.items() if name not in stacked}
    for name in stacked:
        width = named.shapes[name][-1]
        for index, letter in enumerate(SHIFTS):
            views[name[:-1] + letter] = View(name, (1, 1, width), _row(index))
    return view_of(named, views)


def _row(index: int) -> Transform:
    return lambda stacked: stacked[index]


FLA6 = (
    *_SKELETON,
    Rule("blocks.N.att.time_maa_x", "model.layers.N.attn.x_proj.0.mu", FLAT),
    Rule("blocks.N.att.time_decay", "model.layers.N.attn.w_proj.linear.lora.2.bias", FLAT),
    Rule(
        "blocks.N.att.time_decay_w1", "model.layers.N.attn.w_proj.linear.lora.0.weight", TRANSPOSED
    ),
    Rule(
        "blocks.N.att.time_decay_w2", "model.layers.N.attn.w_proj.linear.lora.2.weight", TRANSPOSED
    ),
    Rule("blocks.N.att.receptance.weight", "model.layers.N.attn.r_proj.linear.weight"),
    Rule("blocks.N.att.key.weight", "model.layers.N.attn.k_proj.linear.weight"),
    Rule("blocks.N.att.value.weight", "model.layers.N.attn.v_proj.linear.weight"),
    Rule("blocks.N.att.gate.weight", "model.layers.N.attn.g_proj.linear.weight"),
    Rule("blocks.N.att.output.weight", "model.layers.N.attn.o_proj.weight"),
    Rule("blocks.N.att.time_faaaa", "model.layers.N.attn.bonus"),
    Rule("blocks.N.att.ln_x.*", "model.layers.N.attn.g_norm.*"),
    Rule("blocks.N.ffn.time_maa_k", "model.layers.N.ffn.key.mu", FLAT),
    Rule("blocks.N.ffn.time_maa_r", "model.layers.N.ffn.receptance.mu", FLAT),
    Rule("blocks.N.ffn.key.weight", "model.layers.N.ffn.key.linear.weight"),
    Rule("blocks.N.ffn.receptance.weight", "model.layers.N.ffn.receptance.linear.weight"),
    Rule("blocks.N.ffn.value.weight", "model.layers.N.ffn.value.weight"),
    Rule("blocks.N.att.*", "model.layers.N.attn.*"),
)

MIXES = "rwkvg"
"""The order of the five token mixes in fla; the official order is w, k, v, r, g."""


def fla6_to_official(checkpoint: Checkpoint) -> Checkpoint:
    """View an fla checkpoint of RWKV-6 as official; its five mixes are stacked in another order."""
    named = official_view(checkpoint, FLA6)
    views = {}
    for name, shape in named.shapes.items():
        prefix, _, part = name.rpartition(".att.")
        if part == "x_bias":
            for index, letter in enumerate(MIXES):
                mixed = f"{prefix}.att.time_maa_{letter}"
                views[mixed] = View(name, (1, 1, shape[-1]), _row(index))
        elif part == "x_proj.0.linear.weight":  # (5 M, D) to (D, 5 M)
            views[f"{prefix}.att.time_maa_w1"] = View(name, shape[::-1], _first_factor)
        elif part == "x_proj.2.weight":  # (D, 5 M) to (5, M, D)
            size = (len(MIXES), shape[1] // len(MIXES), shape[0])
            views[f"{prefix}.att.time_maa_w2"] = View(name, size, _second_factor)
        else:
            views[name] = View(name, shape)
    return view_of(named, views)


def _first_factor(weight: Tensor) -> Tensor:
    """Convert (5 M, D) in fla's order to (D, 5 M) in the official order."""
    return _in_official_order(weight).flatten(0, 1).t()


def _second_factor(weight: Tensor) -> Tensor:
    """Convert (D, 5 M) in fla's order to (5, M, D) in the official order."""
    return _in_official_order(weight.t())


def _in_official_order(stacked: Tensor) -> Tensor:
    """Reshape (5 M, D) in fla's order to (5, M, D) in the official order."""
    blocks = stacked.reshape(len(MIXES), -1, stacked.shape[-1])
    return blocks[[MIXES.index(letter) for letter in "wkvrg"]]
