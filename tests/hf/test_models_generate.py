"""`generate` of transformers: every way gives what reading the whole text anew would give."""

import pytest
import torch
from transformers import DynamicCache, PreTrainedTokenizerFast, TextStreamer, pipeline

from tests.hf.translated import SIZES, random_ids
from wkv.hf import RwkvCache
from wkv.hf.cache import CACHE_NAME

GREEDY = {"do_sample": False, "pad_token_id": 0}
NEW = 8


def recomputed(model, ids, mask=None, new=NEW):
    """Greedy continuation of (B, T) ids, the whole text read anew for each token."""
    with torch.no_grad():
        for _ in range(new):
            logits = model(ids, attention_mask=mask, use_cache=False).logits
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
            mask = None if mask is None else torch.cat([mask, mask.new_ones(len(ids), 1)], dim=1)
    return ids


def read_lengths(model, call):
    """How many tokens each forward pass got while `call` ran."""
    seen = []
    hook = model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(args[0].shape[1]), with_kwargs=True
    )
    call()
    hook.remove()
    return seen


def test_greedy_equals_reading_anew_and_reads_each_token_once(model):
    ids = random_ids(3, 11)
    expected = recomputed(model, ids)
    assert torch.equal(model.generate(ids, max_new_tokens=NEW, **GREEDY), expected)
    lengths = read_lengths(model, lambda: model.generate(ids, max_new_tokens=4, **GREEDY))
    assert lengths == [11, 1, 1, 1]


def test_a_left_padded_batch_continues_as_its_rows_alone(model):
    ids = random_ids(2, 11)
    mask = torch.ones_like(ids)
    mask[0, :6] = 0
    found = model.generate(ids, attention_mask=mask, max_new_tokens=NEW, **GREEDY)
    alone = model.generate(ids[:1, 6:], max_new_tokens=NEW, **GREEDY)
    assert torch.equal(found[0, 6:], alone[0])
    assert torch.equal(found[1:], model.generate(ids[1:], max_new_tokens=NEW, **GREEDY))


def test_beams_equal_beams_without_a_cache(model):
    ids = random_ids(2, 7)
    beams = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 6, **GREEDY}
    found = model.generate(ids, **beams)
    assert found.shape == (4, 13)
    assert torch.equal(found, model.generate(ids, use_cache=False, **beams))


def test_sampling_gives_several_texts_a_prompt(model):
    torch.manual_seed(0)
    ids = random_ids(2, 7)
    found = model.generate(
        ids, do_sample=True, top_p=0.9, num_return_sequences=3, max_new_tokens=6, pad_token_id=0
    )
    assert found.shape == (6, 13)
    assert torch.equal(found[:, :7], ids.repeat_interleave(3, dim=0))
    assert len({tuple(row) for row in found.tolist()}) > 2


def test_a_prompt_in_pieces(model):
    ids = random_ids(2, 11)
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    whole = model.generate(ids, attention_mask=mask, max_new_tokens=NEW, **GREEDY)
    found = model.generate(
        ids, attention_mask=mask, prefill_chunk_size=5, max_new_tokens=NEW, **GREEDY
    )
    assert torch.equal(found, whole)


def test_going_on_from_a_cache_in_three_ways(model):
    ids = random_ids(2, 14)
    expected = recomputed(model, ids)
    with torch.no_grad():
        cache = model(ids[:, :9]).past_key_values
    settings = {CACHE_NAME: cache, "max_new_tokens": NEW, **GREEDY}
    every = torch.ones_like(ids)
    assert torch.equal(model.generate(ids, **settings), expected)
    assert torch.equal(model.generate(ids, attention_mask=every, **settings), expected)
    found = model.generate(ids[:, 9:], attention_mask=every, **settings)
    assert torch.equal(found, expected[:, 9:])
    assert cache.get_seq_length() == 9  # none of them has changed it


def test_going_on_from_what_generate_returned(model):
    ids = random_ids(2, 9)
    first = model.generate(ids, max_new_tokens=4, return_dict_in_generate=True, **GREEDY)
    assert isinstance(first.past_key_values, RwkvCache)
    assert first.past_key_values.get_seq_length() == 12  # the last token was not read yet
    both = torch.cat([first.sequences, random_ids(2, 3, seed=5)], dim=1)
    found = model.generate(
        both, **{CACHE_NAME: first.past_key_values}, max_new_tokens=NEW, **GREEDY
    )
    assert torch.equal(found, recomputed(model, both))
    assert not any(t.requires_grad for state in first.past_key_values.states for t in state)


def test_from_embeddings(generation, model):
    ids = random_ids(2, 9)
    embeddings = model.get_input_embeddings()(ids).detach()
    if generation == "7a":
        with pytest.raises(ValueError, match="give input_ids"):
            model.generate(inputs_embeds=embeddings, max_new_tokens=NEW, **GREEDY)
        return
    found = model.generate(inputs_embeds=embeddings, max_new_tokens=NEW, **GREEDY)
    assert torch.equal(found, recomputed(model, ids)[:, 9:])


def test_decoding_by_hand_in_evaluation_mode_keeps_no_graph(model):
    output = model(random_ids(1, 5))
    output = model(random_ids(1, 1), past_key_values=output.past_key_values)
    assert not any(t.requires_grad for state in output.past_key_values.states for t in state)


def test_what_needs_an_earlier_state_is_refused(their_models):
    model = their_models["7"]
    with pytest.raises(ValueError, match="not supported with stateful models"):
        model.generate(random_ids(1, 5), assistant_model=model, max_new_tokens=3, **GREEDY)
    with pytest.raises(ValueError, match="not supported with stateful models"):
        model.generate(random_ids(1, 5), prompt_lookup_num_tokens=2, max_new_tokens=3, **GREEDY)


def test_another_models_cache_is_refused(their_models):
    with pytest.raises(TypeError, match="DynamicCache was given"):
        their_models["7"](random_ids(1, 5), past_key_values=DynamicCache())


@pytest.fixture(scope="module")
def tokenizer():
    """Words w1 to w119; w0 is the end."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {f"w{number}": number for number in range(SIZES["vocab_size"])}
    core = Tokenizer(models.WordLevel(words, unk_token="w0"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="w0", pad_token="w0", padding_side="left"
    )


def test_pipeline_also_in_batches(model, tokenizer):
    generator = pipeline("text-generation", model=model, tokenizer=tokenizer, device="cpu")
    texts = ["w1 w2 w3", "w5 w6 w7 w8 w9 w10"]
    settings = {"max_new_tokens": 5, "do_sample": False, "return_full_text": False}
    alone = [generator(text, **settings)[0]["generated_text"] for text in texts]
    batch = [found[0]["generated_text"] for found in generator(texts, batch_size=2, **settings)]
    assert alone == batch
    ids = torch.tensor([[1, 2, 3]])
    assert tokenizer.decode(recomputed(model, ids, new=5)[0, 3:]).split() == alone[0].split()


def test_streaming(their_models, tokenizer, capsys):
    ids = tokenizer("w4 w5", return_tensors="pt").input_ids
    streamer = TextStreamer(tokenizer, skip_prompt=True)
    found = their_models["7"].generate(ids, streamer=streamer, max_new_tokens=4, **GREEDY)
    assert capsys.readouterr().out.split() == tokenizer.decode(found[0, 2:]).split()
