"""The plan of an RWKV-7 layer; see `wkv.models.rwkv7` for the formulas."""

from wkv.checkpoint.weights import Weights
from wkv.models.rwkv7 import Config
from wkv.native.plan import Buffer, Inputs, Plan
from wkv.native.steps import Function, StatePart, Wkv7


def add_layer(plan: Plan, weights: Weights, config: Config, layer: int) -> None:
    """Add the steps of a layer: time mix and channel mix."""
    time_mix(plan, weights, config, layer)
    channel_mix(plan, weights, layer)


def time_mix(plan: Plan, weights: Weights, config: Config, layer: int) -> None:
    """Add the time mix: a state matrix per head with a vector-valued delta rule."""
    att = weights.of("att.")
    shares = [att.vector(f"x_{name}") for name in "rwkvag"]
    mixed, _, _ = plan.shift(weights.norm("ln1"), layer, StatePart.att_shift, shares)
    x_r, x_w, x_k, x_v, x_a, x_g = mixed

    def low_rank(x: Inputs, name: str, function: Function = Function.identity) -> Buffer:
        """Return function(x A) B."""
        low = plan.product(x, att.packed(f"{name}1"), f"low_{name}")
        return plan.product(plan.activate(low, function), att.packed(f"{name}2"), name)

    r = plan.product(x_r, att.matrix("receptance"), "r")
    k = plan.product(x_k, att.matrix("key"), "k")
    v = plan.product(x_v, att.matrix("value"), "v_now")
    decay = low_rank(x_w, "w", Function.tanh)
    rate = low_rank(x_a, "a")
    gate = low_rank(x_g, "g", Function.sigmoid)
    mix = low_rank(x_v, "v") if layer > 0 else None
    v_first = plan.buffer("v_first", config.dim_att)
    y = plan.buffer("y", config.dim_att)
    norm_weight, norm_bias = att.norm("ln_x")
    plan.add(
        Wkv7,
        [y, v_first] if layer == 0 else [y],
        receptance=r,
        key=k,
        value=v,
        decay=decay,
        rate=rate,
        gate=gate,
        mix=mix,
        value_first=v_first,
        y=y,
        w0=att.vector("w0"),
        a0=att.vector("a0"),
        v0=att.vector("v0") if layer > 0 else None,
        k_k=att.vector("k_k"),
        k_a=att.vector("k_a"),
        r_k=att.vector("r_k"),
        norm_weight=norm_weight,
        norm_bias=norm_bias,
        layer=layer,
        head_size=config.head_size,
        eps=config.group_norm_eps,
    )
    plan.product(plan.activate(y), att.matrix("output"), plan.X, add=True)


def channel_mix(plan: Plan, weights: Weights, layer: int) -> None:
    """Add the channel mix V relu(K x_k)^2; most inputs of V are zero."""
    ffn = weights.of("ffn.")
    (x_k,), _, _ = plan.shift(weights.norm("ln2"), layer, StatePart.ffn_shift, [ffn.vector("x_k")])
    hidden = plan.product(x_k, ffn.matrix("key"), "hidden")
    activated = plan.activate(hidden, Function.squared_relu)
    plan.product(activated, ffn.matrix("value"), plan.X, add=True)
