"""The plan of an RWKV-6 layer; see `wkv.models.rwkv6` for the formulas."""

from wkv.checkpoint.weights import Weights
from wkv.models.rwkv6 import Config
from wkv.native.plan import Plan
from wkv.native.rwkv4 import channel_mix
from wkv.native.steps import Function, StatePart, Wkv6


def add_layer(plan: Plan, weights: Weights, config: Config, layer: int) -> None:
    """Add the steps of a layer: time mix and channel mix."""
    time_mix(plan, weights, config, layer)
    channel_mix(plan, weights, layer, "time_maa_k", "time_maa_r", from_previous=False)


def time_mix(plan: Plan, weights: Weights, config: Config, layer: int) -> None:
    """Add the time mix: a state matrix per head, with data-dependent shifts and decays."""
    att = weights.of("att.")
    maa_x = att.vector("time_maa_x")
    (x_x,), x, d = plan.shift(weights.norm("ln1"), layer, StatePart.att_shift, [maa_x], keep=True)
    assert x is not None
    assert d is not None
    z = plan.product(x_x, att.packed("time_maa_w1"), "z")
    mixed = {}
    for number, (name, factor) in enumerate(zip("wkvrg", att.factors("time_maa_w2"), strict=True)):
        part = plan.activate(z, Function.tanh, first=number * factor.inputs, width=factor.inputs)
        m = plan.product(part, factor, f"m_{name}")
        mixed[name] = plan.mix(x, d, att.vector(f"time_maa_{name}"), m)

    r = plan.product(mixed["r"], att.matrix("receptance"), "r")
    k = plan.product(mixed["k"], att.matrix("key"), "k")
    v = plan.product(mixed["v"], att.matrix("value"), "v")
    g = plan.product(mixed["g"], att.matrix("gate"), "g")
    low = plan.product(mixed["w"], att.packed("time_decay_w1"), "low")
    change = plan.product(
        plan.activate(low, Function.tanh), att.packed("time_decay_w2"), "decay_change"
    )
    y = plan.buffer("y", config.dim_att)
    norm_weight, norm_bias = att.norm("ln_x")
    plan.add(
        Wkv6,
        [y],
        receptance=r,
        key=k,
        value=v,
        gate=g,
        decay_change=change,
        y=y,
        decay=att.vector("time_decay"),
        bonus=att.vector("time_faaaa"),
        norm_weight=norm_weight,
        norm_bias=norm_bias,
        layer=layer,
        head_size=config.head_size,
        eps=config.group_norm_eps,
    )
    plan.product(plan.activate(y), att.matrix("output"), plan.X, add=True)
