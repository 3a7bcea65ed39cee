"""What must hold of any model and any input: splits, batches, padding, unchanged states."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import wkv
from tests.checkpoints import GENERATIONS, random_checkpoint, save_pth
from tests.gpu_models import on_gpu_engine

TOLERANCE = 1e-9  # in float64, where an error cannot pass for rounding
ids_lists = st.lists(st.integers(0, 299), min_size=1, max_size=70)
every_generation = pytest.mark.parametrize("generation", GENERATIONS)


@pytest.fixture(scope="module", params=["torch", "cuda"])
def small_models(request, tmp_path_factory):
    """Give two-layer models of every generation in float64; hypothesis runs them often."""
    folder = tmp_path_factory.mktemp("small")
    built = {}
    for generation in GENERATIONS:
        tensors = random_checkpoint(generation, n_layer=2, n_embd=64, head_size=32)
        save_pth(tensors, folder / f"{generation}.pth")
        built[generation] = wkv.load(folder / f"{generation}.pth", "cpu fp32", engine="torch")
        built[generation].network.double()
        if request.param == "cuda":
            built[generation] = on_gpu_engine(built[generation])
    return built


def _parts(state):
    return [t for layer in state.layers for t in (layer.att_shift, layer.wkv, layer.ffn_shift)]


def _assert_close(left, right):
    for a, b in zip(_parts(left), _parts(right), strict=True):
        assert (a - b).abs().max() <= TOLERANCE * b.abs().clamp(max=1e6).max().clamp(min=1)
    assert left.tokens_seen == right.tokens_seen


@every_generation
@given(ids=ids_lists, cut=st.floats(0, 1))
def test_any_split_gives_the_same_logits_and_state(small_models, generation, ids, cut):
    model = small_models[generation]
    whole, state = model.forward(ids, all_logits=True)
    at = int(cut * len(ids))
    logits, carried = [], None
    for part in (ids[:at], ids[at:]):
        if part:
            after, carried = model.forward(part, carried, all_logits=True)
            logits.append(after)
    assert (torch.cat(logits) - whole).abs().max() <= TOLERANCE
    _assert_close(carried, state)
    assert state.tokens_seen == (len(ids),)


@every_generation
@settings(max_examples=12)
@given(rows=st.lists(ids_lists, min_size=1, max_size=4), pad=st.integers(0, 299))
def test_a_padded_row_equals_that_row_alone(small_models, generation, rows, pad):
    model = small_models[generation]
    lengths = [len(row) for row in rows]
    width = max(lengths) + 3
    batch = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    logits, state = model.forward(batch, lengths=lengths)
    again, state_again = model.forward(batch, state, lengths=lengths)
    for index, row in enumerate(rows):
        alone, state_alone = model.forward(row)
        assert (logits[index] - alone).abs().max() <= TOLERANCE
        _assert_close(state.rows([index]), state_alone)
        alone, state_alone = model.forward(row, state_alone)
        assert (again[index] - alone).abs().max() <= TOLERANCE
        _assert_close(state_again.rows([index]), state_alone)


@every_generation
@settings(max_examples=10)
@given(first=ids_lists, second=ids_lists)
def test_the_state_passed_in_is_never_changed(small_models, generation, first, second):
    model = small_models[generation]
    _, state = model.forward(first)
    before = state.clone()
    model.forward(second, state)
    assert all(torch.equal(a, b) for a, b in zip(_parts(state), _parts(before), strict=True))


@every_generation
@settings(max_examples=10)
@given(ids=ids_lists)
def test_states_survive_the_disk(models, generation, ids, tmp_path_factory):
    model = models[generation]
    _, state = model.forward(ids)
    path = tmp_path_factory.mktemp("state") / "s.safetensors"
    state.save(path)
    loaded = wkv.State.load(path, model)
    assert all(torch.equal(a, b) for a, b in zip(_parts(state), _parts(loaded), strict=True))
    assert torch.equal(state.logits, loaded.logits)
    assert loaded.tokens_seen == (len(ids),)


@every_generation
def test_long_inputs_pass_in_pieces(small_models, generation, monkeypatch):
    model = small_models[generation]
    ids = torch.randint(0, 300, (2, 90), generator=torch.Generator().manual_seed(0))
    whole, state = model.forward(ids, lengths=[90, 31])
    every, _ = model.forward(ids, all_logits=True)
    monkeypatch.setattr("wkv.inference.model.TOKENS_AT_ONCE", 40)
    pieces, state_pieces = model.forward(ids, lengths=[90, 31])
    every_pieces, _ = model.forward(ids, all_logits=True)
    assert (whole - pieces).abs().max() <= TOLERANCE
    assert (every - every_pieces).abs().max() <= TOLERANCE
    _assert_close(state, state_pieces)


def test_rows_and_stack_are_inverse(small_models):
    model = small_models["7"]
    _, state = model.forward(torch.arange(12).view(3, 4))
    stacked = wkv.State.stack([state.rows([index]) for index in range(3)])
    assert all(torch.equal(a, b) for a, b in zip(_parts(state), _parts(stacked), strict=True))
    assert torch.equal(stacked.logits, state.logits)
    swapped = state.rows([2, 0])
    assert torch.equal(swapped.layers[1].wkv[0], state.layers[1].wkv[2])


@every_generation
def test_every_parameter_has_a_gradient(tmp_path, generation):
    save_pth(random_checkpoint(generation, n_layer=2, n_embd=64), tmp_path / "m.pth")
    network = wkv.load(tmp_path / "m.pth", "cpu fp32", engine="torch").network.requires_grad_(True)
    X, _ = network(torch.arange(40).view(2, 20), network.new_layers(2))
    network.logits(X).square().mean().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None]
    zero = [
        name
        for name, p in network.named_parameters()
        if p.grad is not None and not p.grad.abs().sum() > 0
    ]
    assert without == []
    assert zero == []
