"""The plan of an RWKV-5 layer, for all three releases; see `wkv.models.rwkv5`."""

from torch import Tensor

from wkv.checkpoint.weights import Weights
from wkv.models.rwkv5 import Config
from wkv.native.plan import Plan
from wkv.native.rwkv4 import channel_mix
from wkv.native.steps import StatePart, Wkv6


def add_layer(plan: Plan, weights: Weights, config: Config, layer: int) -> None:
    """Add the steps of a layer: time mix and channel mix."""
    time_mix(plan, weights, config, layer)
    channel_mix(plan, weights, layer, "time_mix_k", "time_mix_r", from_previous=True)


def time_mix(plan: Plan, weights: Weights, config: Config, layer: int) -> None:
    """Add the time mix: a state matrix per head with constant decays; 5.0 has no gate."""
    att = weights.of("att.")
    gated = config.generation != "5.0"
    shares = [1 - att.vector(f"time_mix_{name}") for name in ("rkvg" if gated else "rkv")]
    (x_r, x_k, x_v, *x_g), _, _ = plan.shift(
        weights.norm("ln1"), layer, StatePart.att_shift, shares
    )
    r = plan.product(x_r, att.matrix("receptance"), "r")
    k = plan.product(x_k, att.matrix("key"), "k")
    v = plan.product(x_v, att.matrix("value"), "v")
    g = plan.product(x_g[0], att.matrix("gate"), "g") if gated else None

    def per_channel(vector: Tensor) -> Tensor:
        """Expand values per head to values per channel; keep values per channel."""
        heads = vector.view(config.n_head, -1)
        return heads.expand(config.n_head, config.head_size).contiguous().flatten()

    decay = per_channel((-att.vector("time_decay").exp()).exp())
    bonus = per_channel(att.vector("time_faaaa") if gated else att.vector("time_first").exp())
    y = plan.buffer("y", config.dim_att)
    norm_weight, norm_bias = att.norm("ln_x")
    plan.add(
        Wkv6,
        [y],
        receptance=r,
        key=k,
        value=v,
        gate=g,
        decay_change=None,
        y=y,
        decay=decay,
        bonus=bonus,
        norm_weight=norm_weight,
        norm_bias=norm_bias,
        layer=layer,
        head_size=config.head_size,
        eps=config.group_norm_eps,
    )
    plan.product(plan.activate(y), att.matrix("output"), plan.X, add=True)
