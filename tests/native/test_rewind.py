"""Rewinding a pass: the state after any of its tokens, with the bits of a shorter pass."""

import pytest
import torch

import wkv
from tests.checkpoints import GENERATIONS, random_checkpoint, save_pth
from wkv.checkpoint.weights import Weights
from wkv.inference.describe import describe
from wkv.inference.load import strategy_for
from wkv.native import library
from wkv.native.network import LAYERS, NativeNetwork

MISSING = library.missing_reason()
KERNELS = library.kernels() if MISSING is None else ()
LENGTHS = (5, 1, 3)
COUNTS = [(0, 0, 0), (1, 1, 1), (2, 0, 3), (3, 1, 0), (4, 0, 2), (5, 1, 3)]
IDS = torch.randint(1, 260, (3, 5), generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Give a function from generation and head size to the path of a checkpoint."""
    folder, made = tmp_path_factory.mktemp("rewind"), {}

    def path(generation, head_size=32):
        if (generation, head_size) not in made:
            made[generation, head_size] = folder / f"{generation}-{head_size}.pth"
            tensors = random_checkpoint(generation, head_size=head_size, n_layer=2)
            save_pth(tensors, made[generation, head_size])
        return made[generation, head_size]

    return path


def _equal(left, right):
    return all(
        torch.equal(getattr(a, part), getattr(b, part))
        for a, b in zip(left, right, strict=True)
        for part in ("att_shift", "wkv", "ffn_shift")
    )


@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("head_size", [16, 64])
@pytest.mark.parametrize("generation", LAYERS)
def test_kept_vectors_give_the_bits_of_a_shorter_pass(paths, generation, head_size, kernels):
    description = describe(paths(generation, head_size))
    strategy = strategy_for(description, "cpu int8")
    weights = Weights(description.checkpoint, description.shapes, strategy)
    network = NativeNetwork(description.config, weights, kernels=kernels, threads=2)
    # Rows that have read something, in states that were joined.
    _, begun = network(IDS.flip(1), network.new_layers(3), torch.tensor([2, 3, 4]))
    begun = wkv.State.stack(
        [wkv.State(begun, (0,) * 3, generation, "").rows([row]) for row in range(3)]
    ).layers
    lengths = torch.tensor(LENGTHS)
    X, layers, again = network.rewindable(IDS, begun, lengths)
    padded, expected = network(IDS, begun, lengths)
    assert torch.equal(X, padded[torch.arange(5) < lengths[:, None]])
    assert _equal(layers, expected)
    for counts in COUNTS:
        shorter = network(IDS, begun, torch.tensor(counts))[1]
        assert _equal(again(torch.tensor(counts)), shorter), counts


def _model(paths, generation, engine):
    if engine == "native" and (MISSING is not None or generation not in LAYERS):
        pytest.skip("this generation runs on PyTorch")
    return wkv.load(paths(generation), "cpu fp32", engine=engine)


@pytest.mark.parametrize("engine", ["native", "torch"])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_rewound_state_is_that_of_the_tokens_that_count(paths, generation, engine):
    model = _model(paths, generation, engine)
    _, before = model.forward(IDS[:, :2])
    copy = before.rows([0, 1, 2])
    read = model.forward_rewindable(IDS, before, lengths=LENGTHS)
    assert read.logits.shape == (sum(LENGTHS), 300)
    assert read.state.tokens_seen == (7, 3, 5)
    for counts in [(5, 1, 3), (1, 1, 1), (4, 1, 2), (0, 0, 3), (0, 0, 0)]:
        state = read.rewind(counts)
        assert state.tokens_seen == tuple(2 + count for count in counts)
        for row, count in enumerate(counts):
            one = copy.rows([row])
            if count:
                one = model.forward(IDS[row : row + 1, :count], one)[1]
            found = state.rows([row])
            torch.testing.assert_close(found.logits, one.logits, rtol=2e-5, atol=2e-5)
            for mine, theirs in zip(found.layers, one.layers, strict=True):
                torch.testing.assert_close(mine.wkv, theirs.wkv, rtol=2e-5, atol=2e-5)
                torch.testing.assert_close(mine.att_shift, theirs.att_shift, rtol=2e-5, atol=2e-5)
        model.forward(IDS[:, :1], state)  # the model goes on from it
    assert _equal(before.layers, copy.layers)


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_a_single_row_from_the_empty_state(paths, engine):
    model = _model(paths, "7", engine)
    ids = IDS[0].tolist()
    read = model.forward_rewindable(ids)
    logits, state = model.forward(ids, all_logits=True)
    assert torch.equal(read.logits, logits)
    assert torch.equal(read.state.logits, state.logits)
    assert read.rewind([5]) is read.state
    assert read.rewind([0]).logits is None
    assert read.rewind([2]).tokens_seen == (2,)


@pytest.mark.parametrize("counts", [[], [6], [-1], [1, 1]])
def test_counts_out_of_range_are_an_error(paths, counts):
    model = _model(paths, "7", "torch")
    read = model.forward_rewindable(IDS[0])
    with pytest.raises(wkv.InputError, match=r"cannot be rewound .* give one count for each row"):
        read.rewind(counts)
