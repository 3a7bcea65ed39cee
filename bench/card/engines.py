"""Random models, and the engines that run them, on a card or in Triton's interpreter."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import wkv
from wkv.gpu.module_step import ModuleStep
from wkv.gpu.network import GpuNetwork, NetworkWeights
from wkv.gpu.rows import Step
from wkv.inference.model import Model
from wkv.models import rwkv7
from wkv.models.parts import Skeleton, is_matrix
from wkv.models.strategy.products import linear

ZEROS_SHIFT = 1.13
"""Deviations by which hidden units are shifted: 87 % of a normal distribution are below it."""


@dataclass(frozen=True)
class Size:
    """The sizes of an RWKV-7 model: layers, width, vocabulary, and ranks of w, a, v, g."""

    name: str
    n_layer: int
    n_embd: int
    ranks: tuple[int, int, int, int]
    vocab_size: int = 65536
    head_size: int = 64


SIZES = (
    Size("1.5B", 24, 2048, (96, 96, 64, 256)),
    Size("7.2B", 32, 4096, (128, 128, 96, 480)),
)
TINY = Size("tiny", 2, 96, (24, 20, 16, 40), vocab_size=90, head_size=32)


def random_network(size: Size, dtype: torch.dtype, device: torch.device) -> Skeleton:
    """Make an RWKV-7 network on a device, with zeros like those of a trained model.

    87 % of the squared ReLUs are zero, at other places for each token.
    """
    decay, a, value, gate = size.ranks
    config = rwkv7.Config(
        generation="7",
        n_layer=size.n_layer,
        n_embd=size.n_embd,
        vocab_size=size.vocab_size,
        dim_att=size.n_embd,
        dim_ffn=4 * size.n_embd,
        n_head=size.n_embd // size.head_size,
        head_size=size.head_size,
        decay_rank=decay,
        a_rank=a,
        value_rank=value,
        gate_rank=gate,
    )
    with torch.device("meta"):
        network: Skeleton = rwkv7.RWKV7(config)
    generator = torch.Generator(device).manual_seed(0)
    tensors = {
        name: _values(name, tensor.shape, dtype, generator)
        for name, tensor in network.state_dict().items()
    }
    network.load_state_dict(tensors, assign=True)
    for module in network.modules():
        if hasattr(module, "product"):
            module.product = linear
    return network.requires_grad_(False).eval()


def _values(name: str, shape: torch.Size, dtype: torch.dtype, random: torch.Generator) -> Tensor:
    """Return random values for a tensor of the network."""
    device = random.device
    if is_matrix(name, shape):
        n_in = shape[-1] if name.endswith(".weight") else shape[-2]
        if name == "emb.weight":
            n_in = 1
        values = torch.randn(shape, generator=random, device=device, dtype=dtype)
        values /= math.sqrt(n_in)
        if name.endswith("ffn.key.weight"):  # inputs have the mean 1, see ln2.bias
            values -= values.float().mean(1, keepdim=True).to(dtype)
            values -= ZEROS_SHIFT / n_in
        return values
    if name.endswith("att.w0"):
        return torch.linspace(-6, -1, shape.numel(), device=device).view(shape)
    constants = {"x_": 0.5, "k_k": 0.85, "k_a": 1.0, "ln2.bias": 1.0, "weight": 1.0}
    value = next((value for part, value in constants.items() if part in name), 0.0)
    return torch.full(shape, value, device=device)


def kernel_step(network: Skeleton) -> Step:
    """Return the step of Triton kernels, or the modules with kernels for the recurrence."""
    if network.config.generation == "7":
        from wkv.gpu.rwkv7_step import Rwkv7Step

        return Rwkv7Step(network)
    from wkv.gpu.recurrences import use_kernels

    use_kernels(network)
    return ModuleStep(network)


def on_engine(network: Skeleton, step: Step) -> GpuNetwork:
    """Return a network on the GPU engine."""
    return GpuNetwork(step, NetworkWeights.of_modules(network), network.new_layers(1))


def load(path: Path, dtype: str, engine: str, device: torch.device) -> Model:
    """Load a file on the engine "torch" or "cuda"; on a CPU, kernels are interpreted."""
    if device.type == "cuda":
        return wkv.load(path, f"cuda {dtype}", engine=engine)
    model = wkv.load(path, f"cpu {dtype}", engine="torch")
    if engine == "torch":
        return model
    assert isinstance(model.network, Skeleton)
    return Model(
        on_engine(model.network, kernel_step(model.network)),
        strategy=model.strategy,
        path=model.path,
        identity=model.identity,
        layout=model.layout,
        make_tokenizer=lambda: model.tokenizer,
    )


def poison(network: GpuNetwork) -> None:
    """Fill all slots of a new network with NaN, except the empty one."""
    slots = network.pool.slots
    for part in (slots.att_shift, slots.wkv, slots.ffn_shift):
        part[1:] = torch.nan


def decoder(network: Skeleton | GpuNetwork, rows: int, device: torch.device) -> Callable[[], None]:
    """Return a function that reads one token in each of some rows, which all differ."""
    ids = torch.arange(rows, device=device) * 7 % network.config.vocab_size
    layers = network.new_layers(rows)
    if isinstance(network, GpuNetwork):
        engine: GpuNetwork = network

        def step() -> None:
            nonlocal layers
            _, layers = engine.step(ids, layers)

    else:
        modules: Skeleton = network

        @torch.no_grad()
        def step() -> None:
            nonlocal layers
            X, layers = modules(ids[:, None], layers)
            modules.logits(X[:, -1])

    return step
