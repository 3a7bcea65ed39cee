"""Rows of one batch use different adapters, each as if its adapter were merged."""

import pytest
import torch

import wkv
from tests.adapters.writers import (
    ALPHA,
    fla_name,
    pairs,
    peft_on_fla,
    peft_on_official,
    peft_pairs,
    rwkv_peft,
    write_peft,
)
from tests.checkpoints import GENERATIONS, random_checkpoint
from wkv.models.state import read_header
from wkv.native.library import missing_reason

MODULES = ("att.key", "att.receptance", "att.gate", "att.output", "ffn.key", "ffn.value",
           "ffn.receptance")  # fmt: skip
ENGINES = ["torch", *(["native"] if missing_reason() is None else [])]
TEXTS = ([5, 250, 17, 3, 99], [7, 8], [1, 2, 3, 4, 5, 6, 7], [11], [250, 5, 9])
CHOSEN = ("first", None, "second", "first", "second")


def adapters_of(folder, generation):
    """Write two adapters: low-rank pairs of many matrices, and pairs of others with MiSS."""
    tensors = random_checkpoint(generation)
    draw = torch.Generator().manual_seed(2)
    second = peft_pairs(pairs(tensors, ("ffn.key", "att.value"), 9, 1), str)
    for layer in range(3):
        D = 0.1 * torch.randn(12, 128, generator=draw)
        second[f"base_model.model.blocks.{layer}.att.output.disha"] = D
    return {
        "first": peft_on_official(folder, pairs(tensors, MODULES)),
        "second": write_peft(folder / "second", second, r=9, lora_alpha=ALPHA),
    }


@pytest.fixture(scope="module")
def loaded(checkpoint_paths, tmp_path_factory):
    """Give a function to the model with two adapters, and to the models merged with each."""
    made = {}

    def load(generation, engine, strategy="cpu fp32"):
        key = generation, engine, strategy
        if key not in made:
            paths = adapters_of(tmp_path_factory.mktemp("adapters"), generation)
            base = checkpoint_paths[generation]
            merged = {
                name: wkv.load(base, strategy, engine=engine, adapter=paths.get(name))
                for name in (*paths, None)
            }
            made[key] = wkv.load(base, strategy, engine=engine, adapters=paths), merged
        return made[key]

    return load


def started(model):
    return [model.new_state(adapter=name) for name in CHOSEN]


def batch_of(texts):
    width = max(map(len, texts))
    return torch.tensor([[*text, *[0] * (width - len(text))] for text in texts])


CASES = [
    (generation, engine)
    for generation in GENERATIONS
    for engine in ENGINES
    if (generation, engine) != ("7a", "native")
]


@pytest.mark.parametrize(("generation", "engine"), CASES)
def test_each_row_is_the_merged_model_and_has_the_bits_of_itself_alone(loaded, generation, engine):
    model, merged = loaded(generation, engine)
    state = wkv.State.stack(started(model))
    lengths = list(map(len, TEXTS))
    logits, state = model.forward(batch_of(TEXTS), state, lengths=lengths)
    decoded, state = model.forward(torch.tensor([[4], [5], [6], [7], [8]]), state)
    for row, (text, name) in enumerate(zip(TEXTS, CHOSEN, strict=True)):
        alone, after = model.forward([text], model.new_state(adapter=name))
        again, after = model.forward([[4 + row]], after)
        expected, other = merged[name].forward(text)
        close = {"atol": 1e-4 * float(expected.abs().max())}
        assert torch.allclose(logits[row], expected, **close)
        assert torch.allclose(decoded[row], merged[name].forward([4 + row], other)[0], **close)
        if engine == "native":
            assert torch.equal(alone[0], logits[row])
            assert torch.equal(again[0], decoded[row])
        assert state.rows([row]).adapters == after.adapters
    for name in ("first", "second"):
        assert not torch.allclose(
            merged[name].forward([5])[0], merged[None].forward([5])[0], atol=0.01
        )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("strategy", ["cpu bf16", "cpu int8", "cpu int4"])
def test_adapters_beside_packed_weights(loaded, engine, strategy):
    model, merged = loaded("7", engine, strategy)
    for name in ("first", "second"):
        found, _ = model.forward(TEXTS[2], model.new_state(adapter=name))
        exact, _ = loaded("7", engine)[1][name].forward(TEXTS[2])
        plain, _ = merged[None].forward(TEXTS[2])
        assert (found - exact).norm() < 0.35 * (found - plain).norm()


def test_rows_without_adapters_keep_the_bits_of_the_base(loaded):
    model, merged = loaded("7", ENGINES[-1])
    assert torch.equal(model.forward(TEXTS[0])[0], merged[None].forward(TEXTS[0])[0])


def test_a_pass_is_rewound_with_the_adapters_of_its_rows(loaded):
    model, _ = loaded("7", ENGINES[-1])
    begun = wkv.State.stack(started(model))
    read = model.forward_rewindable(batch_of(TEXTS), begun, lengths=list(map(len, TEXTS)))
    back = read.rewind([1] * 5)
    for row, (text, name) in enumerate(zip(TEXTS, CHOSEN, strict=True)):
        expected = model.forward(text[:1], model.new_state(adapter=name))[1]
        assert torch.equal(back.layers[2].wkv[row], expected.layers[2].wkv[0])
    assert back.adapters == begun.adapters


def test_states_carry_their_adapter_through_files(loaded, tmp_path):
    model, merged = loaded("7", ENGINES[-1])
    _, state = model.forward(TEXTS[0], model.new_state(adapter="second"))
    state.save(tmp_path / "s.safetensors")
    assert read_header(tmp_path / "s.safetensors").identity == model.adapters["second"]
    again = wkv.State.load(tmp_path / "s.safetensors", model)
    assert again.adapters == (model.adapters["second"],)
    assert torch.equal(model.forward([4], again)[0], model.forward([4], state)[0])
    plain = merged[None]
    with pytest.raises(wkv.StateError, match="another model"):
        wkv.State.load(tmp_path / "s.safetensors", plain)
    with pytest.raises(wkv.StateError, match="another adapter"):
        plain.forward([4], state)
    with pytest.raises(wkv.StateError, match="different adapters"):
        wkv.State.stack(started(model)).save(tmp_path / "t.safetensors")
    one = model.forward(TEXTS[0], model.new_state(adapter="first"))[1]
    one.save(tmp_path / "u.safetensors")  # a merged model and a row with the adapter are the same
    wkv.State.load(tmp_path / "u.safetensors", merged["first"])


def test_adapters_that_cannot_be_chosen_for_each_row(tmp_path, checkpoint_paths):
    tensors = random_checkpoint("7")
    found = pairs(tensors, ["att.key"])
    base = checkpoint_paths["7"]
    named = peft_pairs(found, fla_name)
    for module in found:
        named[f"base_model.model.{fla_name(module)}.lora_magnitude_vector"] = torch.rand(128)
    for path in (
        write_peft(tmp_path / "dora", named, use_dora=True),
        rwkv_peft(tmp_path, pairs(tensors, ["att.key"])),
    ):
        if path.suffix == ".pth":
            torch.save(torch.load(path) | {"blocks.0.ln1.bias": torch.ones(128)}, path)
        alpha = ALPHA if path.suffix == ".pth" else None
        with pytest.raises(wkv.CheckpointError, match="cannot be chosen for each request"):
            wkv.load(base, adapters={"a": path}, alpha=alpha)
    model = wkv.load(base, "cpu fp32", adapters={"a": peft_on_fla(tmp_path, found)})
    with pytest.raises(wkv.InputError, match="'b' was not loaded; there are: a"):
        model.new_state(adapter="b")
