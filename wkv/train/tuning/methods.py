"""The tensors that each method trains: an initial state, changes of matrices, or all tensors.

A change takes the place of `Linear.product`, which computes W x, and computes W' x, with the
formulas of `wkv.adapters.changes`. At the first step, every method computes what the base does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from wkv.adapters.changes import Change, LowRank, Miss, row_norms
from wkv.checkpoint.packing import Packed
from wkv.errors import TrainingError
from wkv.inference.model import Model
from wkv.models.parts import Linear, Skeleton
from wkv.models.state import LayerState
from wkv.models.strategy.products import Product, linear
from wkv.train.optimizer import Trained
from wkv.train.tuning.options import PACKED, TuningOptions
from wkv.train.tuning.packed_base import pack_matrices, packed_product

TARGETS = ("receptance", "key", "value", "gate", "output")
"""The last part of the names of matrices that adapters change."""


@dataclass
class TunedModel:
    """A base model, and the tensors that are trained.

    Attributes:
        model: the base model on the engine "torch".
        trained: the tensors that are trained.
        changes: official tensor name to change, for adapters.
        start: (L, H, N, N) the initial state that is trained, with axes (value, key), or None.
    """

    model: Model
    trained: Sequence[Trained] = ()
    changes: Mapping[str, Change] = field(default_factory=dict)
    start: nn.Parameter | None = None

    @property
    def network(self) -> Skeleton:
        """The PyTorch network."""
        assert isinstance(self.model.network, Skeleton)
        return self.model.network

    def layers(self, batch: int) -> tuple[LayerState, ...]:
        """Return the state with which `batch` rows begin; its gradient is the sum over rows."""
        layers = tuple(self.model.new_state(batch).layers)
        if self.start is None:
            return layers
        return tuple(
            LayerState(layer.att_shift, wkv.expand_as(layer.wkv), layer.ffn_shift)
            for layer, wkv in zip(layers, self.start, strict=True)
        )


def prepare(model: Model, options: TuningOptions, earlier: Mapping[str, Tensor]) -> TunedModel:
    """Make a model trainable by a method.

    Args:
        model: the base model, whose network is changed in place.
        options: the method and its options.
        earlier: tensors of an earlier run with which training begins, by the names in `trained`.

    Raises:
        TrainingError: if the method does not apply to the model, or the earlier run does not fit.
    """
    tuned = TunedModel(model)
    _check_freezing(model.config.n_layer, options.freeze_layers)
    packed: dict[str, Packed] = {}
    if options.method not in ("state", "full"):
        tuned.changes = _new_changes(tuned.network, options)
        tuned.trained = _tensors_of(tuned.changes)
    if options.base_dtype in PACKED:
        packed = pack_matrices(tuned.network, matrices_of(tuned.network), options.base_dtype)
    if options.method == "state":
        tuned.start = _start(model)
        tuned.trained = [Trained("start", tuned.start)]
    elif options.method == "full":
        tuned.trained = _all_tensors(tuned.network, options.freeze_layers)
    for name, change in tuned.changes.items():
        module = _linear(tuned.network, name)
        matrix = packed.get(name.removesuffix(".weight"))
        module.product = (
            with_change(module.product, change)
            if matrix is None
            else packed_product(matrix, change)
        )
    _load(tuned.trained, earlier)
    return tuned


def with_change(base: Product, change: Change) -> Product:
    """Return the product of a Linear with a change of its weight."""

    def product(x: Tensor, weight: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        y = base(x, weight, dtype)
        return change.product(x, weight, y).to(y.dtype)

    return product


def matrices_of(network: Skeleton) -> list[str]:
    """Return the names of all matrices that adapters may change, such as blocks.0.att.key."""
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, Linear)
        and name.startswith("blocks.")
        and name.rpartition(".")[2] in TARGETS
    ]


def _start(model: Model) -> nn.Parameter:
    """Return the initial state of a model as a new parameter."""
    layers = model.new_state().layers
    if layers[0].wkv.dim() != 4:
        raise TrainingError(
            "RWKV-4 has no matrix state, so no program could use a tuned one; use --method lora"
        )
    return nn.Parameter(torch.stack([layer.wkv[0] for layer in layers]).clone())


def _check_freezing(n_layer: int, frozen: int) -> None:
    if frozen >= n_layer:
        raise TrainingError(
            f"--freeze-layers is {frozen}, and the model has {n_layer} layers; give fewer layers"
        )


def _is_frozen(name: str, frozen: int) -> bool:
    """Return whether a tensor or module is in the first `frozen` layers, or before them."""
    first, _, rest = name.partition(".")
    return frozen > 0 and (
        first == "emb" or (first == "blocks" and int(rest.split(".")[0]) < frozen)
    )


def _all_tensors(network: Skeleton, frozen: int) -> list[Trained]:
    """Return all tensors that are trained as float32 parameters of their own memory."""
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(parameter.detach().float().clone()))
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not _is_frozen(name, frozen))
    return [
        Trained(
            name,
            parameter,
            speed=2.0 if name.endswith("att.w0") else 1.0,
            decays=name.endswith(".weight") and parameter.ndim == 2,
        )
        for name, parameter in network.named_parameters()
        if parameter.requires_grad
    ]


def _new_changes(network: Skeleton, options: TuningOptions) -> dict[str, Change]:
    """Return a change without effect for each target."""
    names = matrices_of(network)
    if options.targets != "all":
        wanted = [target.strip() for target in options.targets.split(",")]
        endings = {name: name.split(".", 2)[2] for name in names}
        unknown = [target for target in wanted if target not in endings.values()]
        if unknown:
            known = ", ".join(dict.fromkeys(endings.values()))
            raise TrainingError(f"--targets has {unknown[0]!r}, and the model has {known}")
        names = [name for name in names if endings[name] in wanted]
    names = [name for name in names if not _is_frozen(name, options.freeze_layers)]
    source = torch.Generator().manual_seed(options.seed)
    return {
        f"{name}.weight": _new_change(_linear(network, f"{name}.weight"), options, source)
        for name in names
    }


def _new_change(module: Linear, options: TuningOptions, source: torch.Generator) -> Change:
    """Return a change of a matrix without effect: A random, B = 0 and D = 0."""
    outputs, inputs, rank = module.out_features, module.in_features, options.rank
    device = module.weight.device
    if rank > min(outputs, inputs):
        raise TrainingError(f"--rank is {rank}, and a matrix has {outputs} x {inputs} numbers")
    if options.method == "miss":
        return Miss(nn.Parameter(torch.zeros(rank, outputs, device=device)))
    A = torch.empty(rank, inputs)
    nn.init.kaiming_uniform_(A, a=math.sqrt(5), generator=source)
    norms = None
    if options.method == "dora":
        norms = nn.Parameter(row_norms(module.weight.float()))
    return LowRank(
        nn.Parameter(A.to(device)),
        nn.Parameter(torch.zeros(outputs, rank, device=device)),
        options.alpha / rank,
        norms,
    )


def _tensors_of(changes: Mapping[str, Change]) -> list[Trained]:
    """Return the parameters of changes, named by their tensor and their part."""
    trained = []
    for name, change in changes.items():
        module = name.removesuffix(".weight")
        for part in ("A", "B", "magnitude", "D"):
            parameter = getattr(change, part, None)
            if isinstance(parameter, nn.Parameter):
                trained.append(Trained(f"{module}.{part}", parameter))
    return trained


def _linear(network: Skeleton, name: str) -> Linear:
    module = network.get_submodule(name.removesuffix(".weight"))
    assert isinstance(module, Linear)
    return module


def plain_products(network: Skeleton) -> None:
    """Let every matrix use PyTorch's differentiable product."""
    for module in network.modules():
        if isinstance(module, Linear):
            module.product = linear


@torch.no_grad()
def _load(trained: Sequence[Trained], earlier: Mapping[str, Tensor]) -> None:
    """Copy the tensors of an earlier run."""
    if not earlier:
        return
    names = {one.name for one in trained}
    if names != set(earlier):
        differing = sorted(names ^ set(earlier))
        raise TrainingError(
            f"--from has other tensors than this run trains, such as {differing[0]}; give the "
            "method, rank and targets of the earlier run"
        )
    for one in trained:
        if one.parameter.shape != earlier[one.name].shape:
            raise TrainingError(
                f"--from has {one.name} of {tuple(earlier[one.name].shape)}, and this run has "
                f"{tuple(one.parameter.shape)}; give the --rank of the earlier run"
            )
        one.parameter.copy_(earlier[one.name])
