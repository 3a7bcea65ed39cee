"""The classes for transformers against wkv's own models, which the oracles vouch for."""

import pytest
import torch

import wkv.hf
from tests.hf.translated import GENERATIONS, random_ids, translate

pytestmark = pytest.mark.usefixtures("no_gradients")
LENGTHS = (9, 20, 1, 14)


@pytest.fixture
def no_gradients():
    with torch.no_grad():
        yield


def left_padded(rows):
    """Rows of ids as (B, T) with garbage on the left, and the mask that says so."""
    width = max(len(row) for row in rows)
    ids, mask = random_ids(len(rows), width, seed=99), torch.zeros(len(rows), width).long()
    for index, row in enumerate(rows):
        ids[index, width - len(row) :] = row
        mask[index, width - len(row) :] = 1
    return ids, mask


def test_logits_equal_wkvs(own, model):
    ids = random_ids(1, 70)
    expected, _ = own.forward(ids[0], all_logits=True)
    assert (model(ids).logits[0] - expected).abs().max() <= 1e-5


def test_one_by_one_equals_wkvs(own, model):
    ids = random_ids(1, 12)
    expected, _ = own.forward(ids[0], all_logits=True)
    cache, logits = None, []
    for t in range(ids.shape[1]):
        output = model(ids[:, t : t + 1], past_key_values=cache)
        cache = output.past_key_values
        logits.append(output.logits[0])
    assert cache.get_seq_length() == ids.shape[1]
    assert (torch.cat(logits) - expected).abs().max() <= 1e-5


def test_left_padded_batch_and_fifty_decoded_tokens_equal_wkvs(own, model):
    rows = [random_ids(length, seed=length) for length in LENGTHS]
    after = random_ids(len(rows), 50, seed=7)
    ids, mask = left_padded(rows)
    output = model(ids, attention_mask=mask, logits_to_keep=1)
    logits, cache = [output.logits], output.past_key_values
    for t in range(after.shape[1]):
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        output = model(after[:, t : t + 1], attention_mask=mask, past_key_values=cache)
        logits.append(output.logits)
        cache = output.past_key_values
    for row, own_ids in enumerate(rows):
        both = torch.cat([own_ids, after[row]])
        expected, _ = own.forward(both, all_logits=True)
        found = torch.cat(logits, dim=1)[row]
        assert (found - expected[len(own_ids) - 1 :]).abs().max() <= 1e-4


def test_padding_anywhere_also_after_a_state_leaves_no_trace(own, model):
    ids = random_ids(3, 30, seed=3)
    mask = torch.ones(3, 30).long()
    mask[0, [0, 1, 2, 7, 8, 18, 29]] = 0  # left, inside, at the seam, right
    mask[1, :25] = 0
    mask[2, 5:] = 0
    first = model(ids[:, :18], attention_mask=mask[:, :18])
    second = model(ids[:, 18:], attention_mask=mask, past_key_values=first.past_key_values)
    logits = torch.cat([first.logits, second.logits], dim=1)
    for row in range(3):
        real = mask[row] == 1
        expected, state = own.forward(ids[row, real], all_logits=True)
        assert (logits[row, real] - expected).abs().max() <= 1e-5
        for mine, theirs in zip(state.layers, second.past_key_values.states, strict=True):
            for name, tensor in zip(("att_shift", "wkv", "ffn_shift"), theirs, strict=True):
                assert torch.allclose(getattr(mine, name)[0], tensor[row], rtol=1e-4, atol=1e-5)


def test_a_wrong_mask_is_refused(model):
    with pytest.raises(ValueError, match=r"attention_mask is \(1, 3\), expected \(1, 5\)"):
        model(random_ids(1, 5), attention_mask=torch.ones(1, 3))


def test_a_pass_does_not_change_the_cache_it_is_given(model):
    ids = random_ids(2, 15)
    cache = model(ids[:, :9]).past_key_values
    before = cache.clone()
    once = model(ids[:, 9:], past_key_values=cache).logits
    again = model(ids[:, 9:], past_key_values=cache).logits
    assert torch.equal(once, again)
    assert cache.get_seq_length() == before.get_seq_length() == 9
    for old, new in zip(before.states, cache.states, strict=True):
        assert all(map(torch.equal, old, new))


def test_rows_of_a_cache_move_and_multiply(model):
    ids = random_ids(3, 10)
    cache = model(ids[:, :6]).past_key_values
    expected = model(ids[:, 6:], past_key_values=cache).logits
    moved = cache.clone()
    moved.reorder_cache(torch.tensor([2, 0, 1]))
    found = model(ids[[2, 0, 1], 6:], past_key_values=moved).logits
    assert torch.allclose(found, expected[[2, 0, 1]], atol=1e-5)
    doubled = cache.clone()
    doubled.batch_repeat_interleave(2)
    doubled.batch_select_indices(torch.tensor([1, 4]))
    assert doubled.batch_size == 2
    found = model(ids[[0, 2], 6:], past_key_values=doubled).logits
    assert torch.allclose(found, expected[[0, 2]], atol=1e-5)
    moved.reset()
    assert (moved.get_seq_length(), moved.is_initialized, moved.batch_size) == (0, False, -1)
    assert torch.equal(model(ids, past_key_values=moved).logits, model(ids).logits)


def test_a_cache_cannot_be_cut_back(their_models):
    cache = their_models["7"](random_ids(1, 4)).past_key_values
    assert repr(cache) == "RwkvCache(3 layers, 1 rows, 4 tokens)"
    assert not cache.is_croppable
    assert not cache.is_compileable
    assert cache.get_max_length() == -1
    with pytest.raises(NotImplementedError, match="cannot be cut back"):
        cache.crop(2)


def test_chosen_logits_hidden_states_and_tuples(model):
    ids = random_ids(2, 8)
    full = model(ids, output_hidden_states=True)
    assert len(full.hidden_states) == model.config.num_hidden_layers + 1
    assert torch.equal(model(ids, logits_to_keep=3).logits, full.logits[:, -3:])
    chosen = model(ids, logits_to_keep=torch.tensor([0, 5])).logits
    assert torch.allclose(chosen, full.logits[:, [0, 5]], atol=1e-6)
    logits, cache = model(ids, return_dict=False)
    assert torch.equal(logits, full.logits)
    assert cache.get_seq_length() == 8
    assert model(ids, use_cache=False).past_key_values is None


def test_ids_or_embeddings(generation, model):
    ids = random_ids(2, 8)
    embeddings = model.get_input_embeddings()(ids)
    if generation == "7a":
        with pytest.raises(ValueError, match="give input_ids"):
            model(inputs_embeds=embeddings)
    else:
        assert torch.equal(model(inputs_embeds=embeddings).logits, model(ids).logits)
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model()


def test_a_model_without_its_head(generation, model):
    ids = random_ids(2, 8)
    hidden = model.base_model(ids).last_hidden_state
    assert torch.equal(model.get_output_embeddings()(hidden), model(ids).logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_weight_in_16_bits_still_runs_in_float32_inside(generation, dtype):
    expected = translate(generation)(random_ids(2, 20)).logits
    model = translate(generation).to(dtype)
    output = model(random_ids(2, 20))
    assert output.logits.dtype == torch.float32
    assert all(t.dtype == torch.float32 for state in output.past_key_values.states for t in state)
    assert (output.logits - expected).abs().max() <= 0.15


def test_float64_shows_that_the_formulas_are_the_same(generation):
    """In float64 a wrong formula cannot pass for rounding: step by step equals chunk by chunk."""
    model = translate(generation).double()
    ids = random_ids(1, 40)
    cache, logits = None, []
    for t in range(ids.shape[1]):
        output = model(ids[:, t : t + 1], past_key_values=cache)
        cache = output.past_key_values
        logits.append(output.logits)
    assert (torch.cat(logits, dim=1) - model(ids).logits).abs().max() <= 1e-11


def test_configs_refuse_what_these_classes_are_not():
    with pytest.raises(ValueError, match="expected 'sqrelu'"):
        wkv.hf.RWKV7Config(hidden_act="silu")
    with pytest.raises(ValueError, match="attention in some layers"):
        wkv.hf.RWKV7Config(attn={"layers": [1]})
    config = wkv.hf.Rwkv5Config(rwkv_generation="5.3", hidden_size=64, num_hidden_layers=1)
    with pytest.raises(ValueError, match=r"generation 5\.3"):
        wkv.hf.Rwkv5ForCausalLM(config)


def test_all_generations_are_covered(their_models):
    assert list(their_models) == list(GENERATIONS)
    assert {type(model.config) for model in their_models.values()} == {
        config for config, _, _ in wkv.hf.CLASSES
    }


def test_every_matrix_product_is_a_plain_linear_layer(model):
    """Tools that quantize find layers by `type(module) is nn.Linear`."""
    plain = [name for name, module in model.named_modules() if type(module) is torch.nn.Linear]
    inherited = [name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    assert plain == inherited
    expected = {"4": 7, "5.0": 7, "5.1": 8, "5.2": 8, "6": 8, "7": 14, "7a": 15}
    layers, generation = model.config.num_hidden_layers, type(model.config).model_type
    release = getattr(model.config, "rwkv_generation", generation.removeprefix("rwkv") or "4")
    without_v = 2 if release.startswith("7") else 0  # layer 0 has no v_lora
    assert len(plain) == expected[release] * layers - without_v + 1  # and the head


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_can_be_replaced_by_others(generation, dtype):
    """A quantized layer has weights of an integer dtype and converts its input itself."""

    class Quantized(torch.nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.scale = layer.weight.float().abs().amax(1, keepdim=True) / 127
            self.weight = (layer.weight / self.scale).round().to(torch.int8)
            self.bias = layer.bias

        def forward(self, x):
            y = x.to(dtype) @ (self.weight * self.scale).to(dtype).T
            return y if self.bias is None else y + self.bias

    model = translate(generation).to(dtype)
    ids = random_ids(2, 12)
    expected = model(ids).logits
    for name, module in list(model.named_modules()):
        if type(module) is torch.nn.Linear:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, Quantized(module))
    assert 0 < (model(ids).logits - expected).abs().max() <= 0.3


@pytest.mark.parametrize("shape", [(1, 0), (0, 3), (5,), (1, 2, 3, 4)])
def test_an_input_without_tokens_is_refused(model, shape):
    with pytest.raises(ValueError, match=r"expected \(batch, tokens\) with at least one of each"):
        model(torch.zeros(shape, dtype=torch.long))


def test_ids_must_be_whole_numbers(model):
    with pytest.raises(TypeError, match=r"input_ids are torch.float32, expected torch.int64"):
        model(torch.zeros(1, 3))
