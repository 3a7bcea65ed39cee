"""The number of launches of a layer, counted without running a kernel."""

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from tests.gpu.packed import new_slots, pack, random_network

FEW, MANY = 8, 11
"""Launches of an RWKV-7 layer that decodes up to four rows, and more. They may only decrease."""

WITHOUT_LAUNCH = ("aten.empty", "aten.new_empty", "aten._unsafe_view", "aten._to_copy")
"""Operators that launch nothing on a GPU; the casts are those of `large_product` on a CPU."""


class Kernel:
    """Stands for a Triton kernel; counts its launches."""

    def __init__(self):
        self.launched = 0

    def __getitem__(self, grid):
        assert all(size > 0 for size in grid)
        return self

    def __call__(self, *arguments, **options):
        self.launched += 1


class Operators(TorchDispatchMode):
    """Counts PyTorch's operators that launch a kernel."""

    def __init__(self):
        super().__init__()
        self.launched = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        is_view = any(r.alias_info and not r.alias_info.is_write for r in function._schema.returns)
        self.launched += not is_view and not str(function).startswith(WITHOUT_LAUNCH)
        return result


def launches(folder, monkeypatch, n_layer, rows):
    from wkv.gpu import launch, rwkv7_step

    kernel = Kernel()
    for module, names in (
        (launch.norms, "norm_mix norm_last"),
        (launch.matrices, "products dot_products"),
        (launch.recurrence, "wkv7 norm_gate"),
        (launch.channel_mix, "sparse_value squared_relu"),
    ):
        for name in names.split():
            monkeypatch.setattr(module, name, kernel)
    modules, _ = random_network(folder, "cpu fp16", n_layer=n_layer)
    step = rwkv7_step.Rwkv7Step(modules)
    slots = new_slots(modules.config, 2 + rows)
    packed = pack([[1]] * rows, slots, [0] * rows, list(range(2, 2 + rows)))
    with Operators() as operators:
        step(*packed)
    return kernel.launched + operators.launched


@pytest.mark.parametrize(("rows", "limit"), [(1, FEW), (4, FEW), (5, MANY), (64, MANY)])
def test_a_layer_needs_few_launches(triton_interpreter, tmp_path, monkeypatch, rows, limit):
    few, more = (launches(tmp_path, monkeypatch, layers, rows) for layers in (2, 3))
    assert more - few <= limit
