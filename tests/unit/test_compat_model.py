"""The RWKV class of wkv.compat: states, arguments and attributes, in every generation."""

import copy
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import wkv
from tests.checkpoints import GENERATIONS, random_checkpoint, save_pth
from wkv.compat.model import RWKV

IDS = np.random.default_rng(5).integers(0, 300, 30).tolist()
VERSIONS = {"4": 4, "5.0": 5, "5.1": 5.1, "5.2": 5.2, "6": 6.0, "7": 7.0, "7a": 7.0}


@pytest.fixture(scope="module")
def drop_ins(checkpoint_paths):
    """Give a float32 model of each generation, behind the package's interface."""
    paths = checkpoint_paths.items()
    return {name: RWKV(str(path), "cpu fp32", verbose=False) for name, path in paths}


@pytest.fixture(params=GENERATIONS)
def drop_in(drop_ins, request):
    """Give one model after the other."""
    return drop_ins[request.param]


def test_logits_are_those_of_the_model(drop_in):
    logits, state = drop_in.forward(IDS[:11], None)
    later, same = drop_in.forward(IDS[11:], state, full_output=True)
    expected, _ = drop_in.model.forward(IDS, all_logits=True)
    assert same is state
    assert logits.dtype == later.dtype == torch.float32
    assert float((logits - expected[10]).abs().max()) < 1e-4
    assert float((later - expected[11:]).abs().max()) < 1e-4


@pytest.mark.parametrize(
    "tokens",
    [
        [5],
        (5,),
        5,
        np.int64(5),
        np.array([5], dtype=np.uint16),
        torch.tensor(5),
        torch.tensor([5], dtype=torch.int32),
        [np.int32(5)],
        range(5, 6),
    ],
)
def test_one_token_in_any_form_gives_one_row_even_with_full_output(drop_ins, tokens):
    expected, _ = drop_ins["7"].model.forward([5])
    for full_output in (False, True):
        logits, _ = drop_ins["7"].forward(tokens, None, full_output)
        assert logits.shape == (300,)
        assert torch.equal(logits, expected)


@pytest.mark.parametrize(
    "tokens", [[], (), torch.tensor([]), [1.5], "abc", [[1, 2]], torch.ones(2, 2).int(), None, {}]
)
def test_what_is_no_row_of_tokens_is_refused(drop_in, tokens):
    with pytest.raises(wkv.InputError, match="token"):
        drop_in.forward(tokens, None)


@pytest.mark.parametrize("tokens", [[300], [-1], [1, 2, 10**30]])
def test_ids_out_of_range_are_refused_and_the_state_stays(drop_in, tokens):
    _, state = drop_in.forward([1], None)
    before = list(state)
    with pytest.raises(wkv.InputError):
        drop_in.forward(tokens, state)
    assert all(old is new for old, new in zip(before, state, strict=True))


def test_list_is_overwritten_and_its_tensors_are_not(drop_in):
    _, state = drop_in.forward(IDS, None)
    tensors, values = list(state), copy.deepcopy(state)
    _, returned = drop_in.forward([1], state)
    assert returned is state
    for old, value, new in zip(tensors, values, state, strict=True):
        assert torch.equal(old, value)
        assert old.data_ptr() != new.data_ptr()
        assert not torch.equal(old, new)


def test_nothing_that_was_handed_out_is_touched_again(drop_in):
    logits, state = drop_in.forward(IDS, None)
    snapshot, kept = copy.deepcopy(state), logits.clone()
    expected, _ = drop_in.forward([1, 2], copy.deepcopy(state))
    drop_in.forward([1, 2], state)
    assert torch.equal(logits, kept)
    for tensor in state:
        tensor.fill_(7.0)
    logits[0] = -1e10
    again, _ = drop_in.forward([1, 2], snapshot)
    assert torch.equal(again, expected)
    fresh, _ = drop_in.forward(IDS, None)
    assert torch.equal(fresh, kept)
    zero = drop_in.generate_zero_state()
    for tensor in zero:
        tensor.fill_(7.0)
    assert torch.equal(drop_in.forward(IDS, drop_in.generate_zero_state())[0], kept)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_state_made_by_hand_in_another_dtype_will_do(drop_in, dtype):
    _, state = drop_in.forward(IDS, None)
    if dtype == torch.float16:  # generation 4's -1e30 is beyond it, but not after some tokens
        assert all(float(tensor.abs().max()) < 6e4 for tensor in state)
    by_hand = [torch.tensor(tensor.tolist(), dtype=dtype) for tensor in state]
    expected, _ = drop_in.forward([3], state)
    logits, returned = drop_in.forward([3], by_hand)
    assert returned is by_hand
    assert [t.dtype for t in by_hand] == [t.dtype for t in state]
    assert float((logits - expected).abs().max()) < (1e-5 if dtype == torch.float64 else 0.5)


def test_wrong_states_are_refused_with_what_was_expected(drop_ins, drop_in):
    _, state = drop_in.forward([1], None)
    size = len(state)
    wrong = [tuple(state), state[:-1], [], {}, 3, torch.zeros(3)]
    for index in range(size):
        for item in (None, state[index][None], state[index].int(), state[index].tolist()):
            wrong.append([*state[:index], item, *state[index + 1 :]])
    for name in ("4", "6", "7"):
        other = drop_ins[name].generate_zero_state()
        if [t.shape for t in other] != [t.shape for t in state]:
            wrong.append(other)
    for value in wrong:
        with pytest.raises(wkv.StateError, match="expected"):
            drop_in.forward([1], value)


def test_zero_state_is_where_the_model_begins(drop_in):
    state = drop_in.generate_zero_state()
    logits, _ = drop_in.forward(IDS, state)
    assert torch.equal(logits, drop_in.forward(IDS, None)[0])


@pytest.mark.parametrize("generation", ["5.2", "6"])
def test_tuned_state_of_the_file_is_where_the_model_begins(tmp_path, generation):
    tensors = random_checkpoint(generation)
    for layer in range(3):
        tensors[f"blocks.{layer}.att.time_state"] = torch.randn(4, 32, 32)
    save_pth(tensors, tmp_path / "tuned.pth")
    model = RWKV(str(tmp_path / "tuned"), "cpu fp32", verbose=False)
    assert model.args.time_state
    for layer in range(3):
        tuned = tensors[f"blocks.{layer}.att.time_state"].transpose(1, 2)
        assert torch.equal(model.generate_zero_state()[3 * layer + 1], tuned)


def test_attributes_that_programs_look_at(checkpoint_paths, drop_ins):
    for name, model in drop_ins.items():
        config, args = model.model.config, model.args
        assert model.version == VERSIONS[name]
        assert model.RESCALE_LAYER == 0
        assert model.eval() is model
        assert (args.n_layer, args.n_embd, args.vocab_size) == (3, 128, 300)
        assert (args.n_att, args.n_ffn) == (config.dim_att, config.dim_ffn)
        assert (model.n_layer, model.n_embd) == (3, 128)
        assert str(checkpoint_paths[name]) == args.MODEL_NAME
        assert args.strategy_string == "cpu fp32"
        assert not args.time_state
        assert (model.n_head, model.head_size) == ((None, None) if name == "4" else (4, 32))
        assert hasattr(args, "n_head") == hasattr(args, "head_size") == (name != "4")
        assert len(model.strategy) == 4
        for place in model.strategy:
            assert (place.device, place.stream) == ("cpu", False)
            assert place.atype == place.wtype == torch.float32
        assert model.w.keys() == model.z.keys() == model.model.network.state_dict().keys()
        assert model.w["emb.weight"].shape == (300, 128)
        with pytest.raises(TypeError):
            model.w["emb.weight"] = torch.zeros(300, 128)


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("spelling", ["{stem}.pth", "{stem}", "  {stem} \n"])
def test_path_with_and_without_ending_in_every_generation(checkpoint_paths, generation, spelling):
    stem = str(checkpoint_paths[generation]).removesuffix(".pth")
    model = RWKV(model=spelling.format(stem=stem), strategy="cpu fp32", verbose=False)
    assert model.model.config.generation == generation
    assert model.forward([1], None)[0].dtype == torch.float32


@pytest.mark.parametrize("path", [None, 5, b"model.pth"])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(wkv.InputError, match="path"):
        RWKV(path, "cpu fp32")


def test_verbose_tells_a_line_on_stderr_and_nothing_on_stdout(checkpoint_paths, capfd):
    RWKV(str(checkpoint_paths["6"]), "cpu fp32")
    told = capfd.readouterr()
    assert told.out == ""
    assert "RWKV-6" in told.err
    assert told.err.count("\n") == 1
    RWKV(str(checkpoint_paths["6"]), "cpu fp32", False)
    assert capfd.readouterr().err == ""


def test_two_generations_take_turns_in_one_process(drop_ins):
    names = ("7", "4")
    alone = {name: drop_ins[name].model.forward(IDS, all_logits=True)[0] for name in names}
    states = dict.fromkeys(names)
    for step, token in enumerate(IDS):
        for name in names:
            logits, states[name] = drop_ins[name].forward([token], states[name])
            assert float((logits - alone[name][step]).abs().max()) < 1e-4


def test_environment_variables_have_no_effect(checkpoint_paths, drop_ins):
    names = ("JIT_ON", "CUDA_ON", "V7_ON", "DE_VERSION", "DML_ON", "RESCALE_LAYER")
    environment = {f"RWKV_{name}": "1" for name in names}
    code = (
        "import json, os, sys\n"
        "before = dict(os.environ)\n"
        "from wkv.compat.model import RWKV\n"
        "import wkv.compat.utils\n"
        "logits = [RWKV(p, 'cpu fp32').forward([1, 2], None)[0].tolist() for p in sys.argv[1:]]\n"
        "assert dict(os.environ) == before\n"
        "assert 'rwkv' not in sys.modules\n"
        "print(json.dumps(logits))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *(str(checkpoint_paths[name]) for name in ("4", "6", "7"))],
        env=os.environ | environment,
        check=True,
        capture_output=True,
        text=True,
    )
    for name, logits in zip(("4", "6", "7"), json.loads(done.stdout), strict=True):
        expected, _ = drop_ins[name].forward([1, 2], None)
        assert float((torch.tensor(logits) - expected).abs().max()) < 1e-5


def test_converting_does_not_end_the_process(checkpoint_paths, tmp_path, capfd):
    for name in ("4", "7"):
        target = tmp_path / f"converted-{name}"
        model = RWKV(str(checkpoint_paths[name]), "cpu bf16", True, str(target))
        assert capfd.readouterr().err.count("\n") == 2
        logits, _ = model.forward(IDS, None)
        again, _ = RWKV(str(target), "cpu bf16", verbose=False).forward(IDS, None)
        assert target.with_suffix(".pth").is_file()
        assert torch.equal(logits, again)
        RWKV(str(checkpoint_paths[name]), "cpu fp32", False, f"{target}.pth")  # over what is there
        assert [file.name for file in tmp_path.iterdir()] == [f"{target.name}.pth"]
        target.with_suffix(".pth").unlink()
