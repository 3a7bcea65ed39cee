"""The layouts of RWKV models on the Hugging Face hub (names such as rwkv.blocks.N.attention).

They are used by transformers' RWKV-4 and by the hub's own code for RWKV-5 and 6. Only the names
differ from the official ones; shapes are the same. Sources: transformers, modeling_rwkv.py; the
repositories RWKV/rwkv-5-world-* and RWKV/rwkv-6-world-* on the hub.
"""

from wkv.checkpoint.layouts.rules import Rule

_MIXES = {"k": "key", "v": "value", "r": "receptance", "g": "gate"}

HUB = (
    Rule("emb.weight", "rwkv.embeddings.weight"),
    Rule("blocks.0.ln0.*", "rwkv.blocks.0.pre_ln.*"),
    Rule("ln_out.*", "rwkv.ln_out.*"),
    Rule("head.weight", "head.weight"),
    *(
        Rule(f"blocks.N.{ours}.time_mix_{letter}", f"rwkv.blocks.N.{theirs}.time_mix_{word}")
        for ours, theirs in (("att", "attention"), ("ffn", "feed_forward"))
        for letter, word in _MIXES.items()
    ),
    Rule("blocks.N.att.*", "rwkv.blocks.N.attention.*"),
    Rule("blocks.N.ffn.*", "rwkv.blocks.N.feed_forward.*"),
    Rule("blocks.N.*", "rwkv.blocks.N.*"),
)

OFFICIAL_2026 = (
    Rule("head.weight", "head.weight"),
    Rule("*", "rwkv7.*"),
)
"""RWKV/RWKV7-*-20260805 on the hub: official names with a prefix."""
