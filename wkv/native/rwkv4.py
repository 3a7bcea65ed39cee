"""The plan of an RWKV-4 layer; see `wkv.models.rwkv4` for the formulas."""

from wkv.checkpoint.weights import Weights
from wkv.models.parts import Config
from wkv.native.plan import Plan
from wkv.native.steps import Function, StatePart, Wkv4


def add_layer(plan: Plan, weights: Weights, config: Config, layer: int) -> None:
    """Add the steps of a layer: time mix and channel mix."""
    time_mix(plan, weights, config, layer)
    channel_mix(plan, weights, layer, "time_mix_k", "time_mix_r", from_previous=True)


def time_mix(plan: Plan, weights: Weights, config: Config, layer: int) -> None:
    """Add the time mix: a running mean of values with weights e^key."""
    att = weights.of("att.")
    # x m + p (1 - m) = x + (p - x) (1 - m).
    shares = [1 - att.vector(f"time_mix_{name}") for name in "rkv"]
    (x_r, x_k, x_v), _, _ = plan.shift(weights.norm("ln1"), layer, StatePart.att_shift, shares)
    r = plan.product(x_r, att.matrix("receptance"), "r")
    k = plan.product(x_k, att.matrix("key"), "k")
    v = plan.product(x_v, att.matrix("value"), "v")
    y = plan.buffer("y", config.dim_att)
    log_decay = -att.vector("time_decay").exp()
    plan.add(
        Wkv4,
        [y],
        receptance=r,
        key=k,
        value=v,
        y=y,
        log_decay=log_decay,
        bonus=att.vector("time_first"),
        layer=layer,
    )
    plan.product(plan.activate(y), att.matrix("output"), plan.X, add=True)


def channel_mix(
    plan: Plan,
    weights: Weights,
    layer: int,
    key_share: str,
    receptance_share: str,
    *,
    from_previous: bool,
) -> None:
    """Add the gated channel mix of generations 4 to 6.

    With `from_previous`, shares of 1 select the current token, as in generations 4 and 5.
    """
    ffn = weights.of("ffn.")
    shares = [ffn.vector(name) for name in (key_share, receptance_share)]
    if from_previous:
        shares = [1 - share for share in shares]
    (x_k, x_r), _, _ = plan.shift(weights.norm("ln2"), layer, StatePart.ffn_shift, shares)
    hidden = plan.product(x_k, ffn.matrix("key"), "hidden")
    gate = plan.product(x_r, ffn.matrix("receptance"), "gate")
    activated = plan.activate(hidden, Function.squared_relu)
    out = plan.product(activated, ffn.matrix("value"), "out")
    plan.gated(gate, out, plan.X)
