"""ChatRWKV's int8 in the kernels: equal to the oracle with the quantized weights."""

import pytest
import torch

from tests.gpu.packed import new_slots, pack, random_network, rms
from tests.gpu.test_kernel_launches import Kernel
from tests.oracles import rwkv7 as oracle
from wkv.models.int8 import Int8Linear, dequantize

LIMIT = 5e-3


def exact(modules, tensors):
    """Return the tensors that int8 modules stand for."""
    result = {name: tensor.numpy() for name, tensor in tensors.items()}
    for name, module in modules.named_modules():
        if isinstance(module, Int8Linear):
            result[f"{name}.weight"] = dequantize(module.state_dict()).numpy()
        for part, tensor in module.named_parameters(recurse=False):
            if tensor.dtype == torch.float16:
                result[f"{name}.{part}"] = tensor.float().numpy()
    return result


def test_int8_equals_the_oracle_with_the_same_weights(triton_interpreter, tmp_path):
    from wkv.gpu.rwkv7_step import Rwkv7Step

    modules, tensors = random_network(tmp_path, "cuda fp16i8")
    weights = exact(modules, tensors)
    before = {name: tensor.clone() for name, tensor in modules.state_dict().items()}
    step = Rwkv7Step(modules)
    assert all(torch.equal(tensor, before[name]) for name, tensor in modules.state_dict().items())
    slots = new_slots(modules.config, 36)
    for rows in (1, 3, 6, 34):  # elementwise, with matrix instructions, with the modules
        tokens = torch.arange(rows).mul(7).remainder(90).tolist()
        write = list(range(2, 2 + rows))
        logits = step(*pack([[token] for token in tokens], slots, [0] * rows, write))
        if rows == 1:
            alone = logits[0]
        elif rows <= 4:
            assert torch.equal(logits[0], alone)
        for row in (0, rows - 1):
            assert rms(logits[row], oracle.forward(weights, [tokens[row]])[0][0]) <= LIMIT
    again = step(*pack([[5], [6]], slots, [2, 2 + rows - 1], [2, 2 + rows - 1]))
    assert rms(again[0], oracle.forward(weights, [tokens[0], 5])[0][1]) <= LIMIT


READ = ("weights", "inputs", "outputs", "vectors", "shares", "weight", "bias")
"""Arguments of kernels that belong to the model."""


class Reads(Kernel):
    """Counts the bytes of the model's tensors that a launch reads."""

    def __init__(self, kernel, seen):
        super().__init__()
        self._names, self._seen = kernel.arg_names, seen

    def __call__(self, *arguments, **options):
        super().__call__()
        for name, value in zip(self._names, arguments, strict=False):
            if name in READ:
                self._seen[value.data_ptr()] = value.nbytes


def counting(product, seen):
    """Return a product that counts the bytes of its weight."""

    def run(x, weight):
        seen[weight.data_ptr()] = weight.nbytes
        return product(x, weight)

    return run


@pytest.mark.parametrize("rows", [1, 32])
def test_int8_reads_at_most_six_tenths_of_the_bytes(
    triton_interpreter, tmp_path, monkeypatch, rows
):
    from wkv.gpu import launch
    from wkv.gpu.rwkv7_step import Rwkv7Step

    counted = {}
    for strategy in ("cuda fp16", "cuda fp16i8"):
        seen = counted[strategy] = {}
        with monkeypatch.context() as changes:
            for module in (
                launch.norms,
                launch.matrices,
                launch.int8_matrices,
                launch.recurrence,
                launch.channel_mix,
            ):
                for name, kernel in list(vars(module).items()):
                    if hasattr(kernel, "arg_names") and kernel.__name__ == name:
                        changes.setattr(module, name, Reads(kernel, seen))
            changes.setattr(launch, "large_product", counting(launch.large_product, seen))
            modules, _ = random_network(tmp_path, strategy, n_embd=512, head_size=64)
            slots = new_slots(modules.config, 2 + rows)
            step = Rwkv7Step(modules)
            step(*pack([[1]] * rows, slots, [0] * rows, list(range(2, 2 + rows))))
    plain, int8 = (sum(counted[strategy].values()) for strategy in ("cuda fp16", "cuda fp16i8"))
    assert plain >= 2 * 2 * 12 * 512**2
    assert int8 <= 0.6 * plain
