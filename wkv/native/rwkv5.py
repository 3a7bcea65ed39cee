"""RWKV-5, all three releases, as steps of the native engine; see `wkv.models.rwkv5`."""

from torch import Tensor

from wkv.models.rwkv5 import Config
from wkv.native.plan import ATT_SHIFT, Argument, Kind, Plan
from wkv.native.rwkv4 import channel_mix
from wkv.native.weights import Weights


def add_layer(plan: Plan, weights: Weights, config: Config, layer: int) -> None:
    """Time mix and channel mix."""
    time_mix(plan, weights, config, layer)
    channel_mix(plan, weights, layer, "time_mix_k", "time_mix_r", from_previous=True)


def time_mix(plan: Plan, weights: Weights, config: Config, layer: int) -> None:
    """A state matrix per head with constant decays; 5.0 has no gate, and another bonus."""
    att = weights.of("att.")
    gated = config.generation != "5.0"
    shares = [1 - att.vector(f"time_mix_{name}") for name in ("rkvg" if gated else "rkv")]
    (x_r, x_k, x_v, *x_g), _, _ = plan.shift(weights.norm("ln1"), layer, ATT_SHIFT, shares)
    r = plan.product(x_r, att.matrix("receptance"), "r")
    k = plan.product(x_k, att.matrix("key"), "k")
    v = plan.product(x_v, att.matrix("value"), "v")
    g = plan.product(x_g[0], att.matrix("gate"), "g") if gated else None

    def spread(vector: Tensor) -> Tensor:
        """One value a channel, of one a head or a channel."""
        heads = vector.view(config.n_head, -1)
        return heads.expand(config.n_head, config.head_size).contiguous().flatten()

    decay = spread((-att.vector("time_decay").exp()).exp())
    bonus = spread(att.vector("time_faaaa") if gated else att.vector("time_first").exp())
    y = plan.buffer("y", config.dim_att)
    rest: list[Argument] = [decay, bonus, *att.norm("ln_x"), layer, config.head_size]
    plan.recurrence(Kind.wkv6, [r, k, v, g, None, y], [y], rest, config.group_norm_eps)
    plan.product(plan.activate(y), att.matrix("output"), plan.X, add=True)
