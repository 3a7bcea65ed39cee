"""Models on the GPU engine with the device "cpu": everything but graphs runs as on a GPU."""

import torch

from wkv.gpu.module_step import ModuleStep
from wkv.gpu.network import GpuNetwork, NetworkWeights
from wkv.gpu.rows import SPARE_SLOT
from wkv.inference.model import Model


class PoisonedNetwork(GpuNetwork):
    """Fills all slots that no state uses with NaN before each step."""

    def _places(self, old):
        read, new, write = super()._places(old)
        unused = [SPARE_SLOT, *self.pool._free, *write]
        for part in (self.pool.slots.att_shift, self.pool.slots.wkv, self.pool.slots.ffn_shift):
            part[unused] = torch.nan
        return read, new, write


def on_gpu_engine(model, *, slots=12, grows=False, step=None, capture=None):
    """Return a model of PyTorch's engine on the GPU engine.

    With few slots that do not grow, states move to main memory and back all the time.
    """
    modules, room = model.network, (lambda: 2**30) if grows else (lambda: 0)
    network = PoisonedNetwork(
        step or ModuleStep(modules),
        NetworkWeights.of_modules(modules),
        modules.new_layers(1),
        room=room,
        first_count=slots,
        capture=capture,
    )
    return Model(
        network,
        strategy=model.strategy,
        path=model.path,
        identity=model.identity,
        layout=model.layout,
        make_tokenizer=lambda: model.tokenizer,
    )


def trace(run):
    """Record the operators of a step with their tensors; like a graph, it runs no Python again."""
    from torch.fx.experimental.proxy_tensor import make_fx

    return make_fx(lambda: run())()
