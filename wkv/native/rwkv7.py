"""RWKV-7 as steps of the native engine; see `wkv.models.rwkv7` for its formulas."""

from wkv.models.rwkv7 import Config
from wkv.native.plan import ATT_SHIFT, FFN_SHIFT, Buffer, Function, Inputs, Kind, Plan
from wkv.native.weights import Weights


def add_layer(plan: Plan, weights: Weights, config: Config, layer: int) -> None:
    """Time mix and channel mix."""
    time_mix(plan, weights, config, layer)
    channel_mix(plan, weights, layer)


def time_mix(plan: Plan, weights: Weights, config: Config, layer: int) -> None:
    """A state matrix per head, changed by a vector-valued delta rule."""
    att = weights.of("att.")
    shares = [att.vector(f"x_{name}") for name in "rwkvag"]
    mixed, _, _ = plan.shift(weights.norm("ln1"), layer, ATT_SHIFT, shares)
    x_r, x_w, x_k, x_v, x_a, x_g = mixed

    def low_rank(x: Inputs, name: str, function: Function = Function.nothing) -> Buffer:
        """function(x A) B."""
        low = plan.product(x, att.factor(f"{name}1"), f"low_{name}")
        return plan.product(plan.activate(low, function), att.factor(f"{name}2"), name)

    r = plan.product(x_r, att.matrix("receptance"), "r")
    k = plan.product(x_k, att.matrix("key"), "k")
    v = plan.product(x_v, att.matrix("value"), "v_now")
    decay = low_rank(x_w, "w", Function.tanh)
    rate = low_rank(x_a, "a")
    gate = low_rank(x_g, "g", Function.sigmoid)
    mix = low_rank(x_v, "v") if layer > 0 else None
    v_first = plan.buffer("v_first", config.dim_att)
    y = plan.buffer("y", config.dim_att)
    plan.recurrence(
        Kind.wkv7,
        [r, k, v, decay, rate, gate, mix, v_first, y],
        [y, v_first] if layer == 0 else [y],
        [
            *(att.vector(name) for name in ("w0", "a0")),
            att.vector("v0") if layer > 0 else None,
            *(att.vector(name) for name in ("k_k", "k_a", "r_k")),
            *att.norm("ln_x"),
            layer,
            config.head_size,
        ],
        config.group_norm_eps,
    )
    plan.product(plan.activate(y), att.matrix("output"), plan.X, add=True)


def channel_mix(plan: Plan, weights: Weights, layer: int) -> None:
    """V relu(K x_k)^2, of which most inputs of V are zero."""
    ffn = weights.of("ffn.")
    (x_k,), _, _ = plan.shift(weights.norm("ln2"), layer, FFN_SHIFT, [ffn.vector("x_k")])
    hidden = plan.product(x_k, ffn.matrix("key"), "hidden")
    activated = plan.activate(hidden, Function.squared_relu)
    plan.product(activated, ffn.matrix("value", sparse_inputs=True), plan.X, add=True)
