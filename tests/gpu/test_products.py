"""The products of the kernels, at sizes that a tiny model does not have."""

import pytest
import torch

from wkv.gpu.packing import NONE, SIGMOID, SQUARED_RELU, TANH, Matrix, pack_products, without_first

FUNCTIONS = {
    NONE: lambda x: x,
    TANH: torch.tanh,
    SIGMOID: torch.sigmoid,
    SQUARED_RELU: lambda x: torch.relu(x).square(),
}


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / shape[-1] ** 0.5


@pytest.mark.parametrize("inputs", [48, 272, 528, 1040])
def test_products_of_any_width_and_number_of_rows(triton_interpreter, inputs):
    from wkv.gpu import launch

    matrices = [
        Matrix(random(outputs, inputs, seed=plane), plane, function)
        for plane, (outputs, function) in enumerate(zip((7, 16, 21, 3), FUNCTIONS, strict=True))
    ]
    packed = pack_products(matrices)
    later = without_first(packed, matrices, 2)
    x = random(4, 18, inputs, seed=9) * inputs**0.5
    for rows in (1, 3, 6, 18):
        planes = x[:, :rows].contiguous()
        expected = [
            FUNCTIONS[matrix.function](planes[matrix.plane].double() @ matrix.weight.double().t())
            for matrix in matrices
        ]
        y = launch.products(planes, packed, rows * inputs)
        assert (y - torch.cat(expected, 1)).abs().max() < 4e-6
        y = launch.products(planes, later, rows * inputs)
        assert (y - torch.cat(expected[2:], 1)).abs().max() < 4e-6


def test_large_hidden_units_survive_fp16(triton_interpreter):
    from wkv.gpu import launch

    x = torch.tensor([[300.0, -5.0, 1.0, 0.5], [0.0, -1.0, 0.0, 0.0]])
    hidden, size = launch.squared_relu(x, torch.float16)
    assert hidden.isfinite().all()
    expected = torch.relu(x).square()
    assert torch.allclose(hidden.float() * size, expected, rtol=1e-3, atol=300**2 * 6e-8)
