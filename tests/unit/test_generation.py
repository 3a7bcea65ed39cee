"""Generation and streaming: stop strings, lengths, seeds, batches, interrupts and states."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import wkv
from tests.checkpoints import random_checkpoint, save_pth
from wkv.inference.sequence import StopStrings

GREEDY = wkv.Sampling(temperature=0, presence_penalty=0, frequency_penalty=0)
QUESTION = "User: What is 27 + 48?\n\nAssistant:"


@given(
    st.lists(st.text("ab\n", max_size=4), max_size=12),
    st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3),
)
def test_stop_strings_are_found_however_the_text_is_split(pieces, stops):
    whole = "".join(pieces)
    watch = StopStrings(stops)
    shown = ""
    for piece in pieces:
        shown += watch.push(piece)
        if watch.found:
            break
    else:
        shown += watch.flush()
    ends = [whole.find(stop) + len(stop) for stop in stops if stop in whole]
    if ends:
        assert watch.found
        assert whole.startswith(shown)
        assert any(whole[len(shown) :].startswith(stop) for stop in stops)
        # No text is shown beyond the end of the stop string that is complete first.
        assert len(shown) < min(ends)
    else:
        assert shown == whole


def test_a_stop_string_ends_the_text_and_is_part_of_the_state(demo):
    done = wkv.generate(demo, QUESTION, sampling=GREEDY, stop="\n\n")
    assert done.text == " 27 + 48 = 75"
    assert done.finish_reason == "stop"
    assert demo.tokenizer.decode(done.token_ids) == done.text + "\n\n"
    read = demo.tokenizer.encode(QUESTION) + done.token_ids
    assert done.state.tokens_seen == (len(read),)
    logits, _ = demo.forward(read)
    assert (logits - done.state.logits[0]).abs().max() < 1e-4


def test_length_ends_the_text(demo):
    done = wkv.generate(demo, "Alice", sampling=GREEDY, max_tokens=5)
    assert (done.finish_reason, len(done.token_ids)) == ("length", 5)
    nothing = wkv.generate(demo, "Alice", max_tokens=0)
    assert (nothing.finish_reason, nothing.text) == ("length", "")


def test_end_of_text_ends_the_text_and_is_not_part_of_the_state(demo, monkeypatch):
    def always_end_of_text(logits, samplers):
        return [0] * len(samplers)

    monkeypatch.setattr("wkv.inference.decode.sample_batch", always_end_of_text)
    done = wkv.generate(demo, "Alice")
    assert (done.finish_reason, done.token_ids, done.text) == ("stop", [], "")
    assert done.state.tokens_seen == (len(demo.tokenizer.encode("Alice")),)


def test_seeds_repeat(demo):
    sampling = wkv.Sampling(seed=5)
    first, second = (wkv.generate(demo, "Once", sampling=sampling, max_tokens=30) for _ in "ab")
    assert first.token_ids == second.token_ids
    other = wkv.generate(demo, "Once", sampling=wkv.Sampling(seed=6), max_tokens=30)
    assert other.token_ids != first.token_ids


def test_a_batch_gives_the_results_of_separate_prompts(demo):
    prompts = ["Alice was", "User: Hello\n\nAssistant:", "The king", QUESTION]
    sampling = wkv.Sampling(seed=1)
    batch = wkv.generate(demo, prompts, sampling=sampling, max_tokens=25, stop="\n\n")
    for prompt, row in zip(prompts, batch, strict=True):
        alone = wkv.generate(demo, prompt, sampling=sampling, max_tokens=25, stop="\n\n")
        assert row == _same_but_state(row, alone)
        assert row.state.tokens_seen == alone.state.tokens_seen
        assert (row.state.logits - alone.state.logits).abs().max() < 1e-3


def _same_but_state(row, alone):
    assert (row.text, row.token_ids, row.finish_reason) == (
        alone.text,
        alone.token_ids,
        alone.finish_reason,
    )
    return row


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), tokens=st.integers(0, 30))
def test_streamed_pieces_join_to_the_text_of_generate(demo, seed, tokens):
    sampling = wkv.Sampling(seed=seed, temperature=2.0, top_p=1.0)
    options = {"sampling": sampling, "max_tokens": tokens, "stop": ["\n\n", "the"]}
    pieces = wkv.stream(demo, "It was", **options)
    shown = list(pieces)
    whole = wkv.generate(demo, "It was", **options)
    assert "".join(shown) == whole.text == pieces.result.text
    assert pieces.result.token_ids == whole.token_ids
    assert pieces.result.finish_reason == whole.finish_reason
    assert pieces.result.state.tokens_seen == whole.state.tokens_seen
    assert "" not in shown


def test_characters_of_several_tokens_are_not_split(byte_model):
    ids = iter([*"é😀".encode(), 0xFF, *"好".encode()[:2]])

    def fixed(logits, samplers):
        return [next(ids)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wkv.inference.decode.sample_batch", fixed)
        shown = list(wkv.stream(byte_model, "x", max_tokens=9))
    assert shown == ["é", "😀", "�", "�"]


def test_generation_continues_a_state_with_or_without_a_prompt(demo):
    whole = wkv.generate(demo, "Once upon a time", sampling=GREEDY, max_tokens=12)
    first = wkv.generate(demo, "Once upon a time", sampling=GREEDY, max_tokens=5)
    before = first.state.clone()
    rest = wkv.generate(demo, "", sampling=GREEDY, max_tokens=7, state=first.state)
    assert first.token_ids + rest.token_ids == whole.token_ids
    assert torch.equal(before.layers[0].wkv, first.state.layers[0].wkv)
    streamed = wkv.stream(demo, "", sampling=GREEDY, max_tokens=7, state=first.state)
    assert "".join(streamed) == rest.text
    both = wkv.generate(demo, [" and", " but"], sampling=GREEDY, max_tokens=4, state=first.state)
    assert [row.state.tokens_seen[0] for row in both] == [
        first.state.tokens_seen[0] + len(demo.tokenizer.encode(text)) + 4
        for text in (" and", " but")
    ]


@pytest.mark.parametrize("after", [0, 1, 4])
def test_ctrl_c_keeps_the_text_so_far(demo, monkeypatch, after):
    calls = []
    forward = type(demo).forward

    def interrupted(self, *args, **options):
        calls.append(1)
        if len(calls) == after + 1:
            raise KeyboardInterrupt
        return forward(self, *args, **options)

    monkeypatch.setattr(type(demo), "forward", interrupted)
    pieces = wkv.stream(demo, "Alice was", sampling=GREEDY, max_tokens=20)
    text = "".join(pieces)
    result = pieces.result
    assert (result.finish_reason, result.text) == ("interrupted", text)
    prompt = len(demo.tokenizer.encode("Alice was")) if after else 0
    assert result.state.tokens_seen == (prompt + len(result.token_ids),)
    assert len(result.token_ids) == after

    calls.clear()
    rows = wkv.generate(demo, ["Alice was", "Tom"], sampling=GREEDY, max_tokens=20)
    assert [row.finish_reason for row in rows] == ["interrupted"] * 2
    assert rows[0].token_ids == result.token_ids
    assert rows[0].state.tokens_seen == result.state.tokens_seen


def test_ctrl_c_between_two_pieces_keeps_the_text_so_far(demo):
    pieces = wkv.stream(demo, "Alice was", sampling=GREEDY, max_tokens=20)
    shown = next(pieces) + next(pieces)
    shown += pieces.interrupt()
    result = pieces.result
    assert (result.finish_reason, result.text) == ("interrupted", shown)
    read = len(demo.tokenizer.encode("Alice was")) + len(result.token_ids)
    assert result.state.tokens_seen == (read,)


def test_an_abandoned_stream_still_has_a_result(demo):
    pieces = wkv.stream(demo, "Alice was", sampling=GREEDY, max_tokens=20)
    next(pieces)
    assert pieces.result.finish_reason == "interrupted"
    assert list(pieces) == []


@pytest.mark.parametrize(
    ("generation", "vocab_size", "leading"),
    [("7", 65536, 1), ("7a", 65536, 1), ("7", 300, 0), ("6", 65536, 0), ("4", 65536, 0)],
)
def test_world_models_of_generation_7_begin_with_id_0(tmp_path, generation, vocab_size, leading):
    path = tmp_path / "m.pth"
    save_pth(random_checkpoint(generation, n_layer=1, n_embd=32, vocab_size=vocab_size), path)
    model = wkv.load(path, "cpu fp32", tokenizer="world" if vocab_size == 65536 else "bytes")
    count = len(model.tokenizer.encode("abc"))
    done = wkv.generate(model, "abc", max_tokens=0)
    assert done.state.tokens_seen == (count + leading,)
    again = wkv.generate(model, "abc", max_tokens=0, state=done.state)
    assert again.state.tokens_seen == (2 * count + leading,)
    assert list(wkv.stream(model, "abc", max_tokens=0)) == []
    assert wkv.generate(model, [0, 5], max_tokens=0).state.tokens_seen == (2,)
    assert model.forward([5])[1].tokens_seen == (1,)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": []}, "prompt|empty"),
        ({"prompt": ["a", ""]}, "prompt is empty"),
        ({"prompt": "a", "max_tokens": -1}, "max_tokens"),
        ({"prompt": "a", "max_tokens": 1.5}, "max_tokens"),
        ({"prompt": "a", "stop": ""}, "stop string"),
        ({"prompt": "a", "stop": [3]}, "stop string"),
        ({"prompt": [99999]}, "id 99999 is not in the vocabulary"),
        ({"prompt": [-1]}, "id -1"),
        ({"prompt": "\ud800"}, "lone surrogate"),
        ({"prompt": None}, "NoneType was given"),
        ({"prompt": 5}, "int was given"),
        ({"prompt": ["a", 5]}, "list was given"),
        ({"prompt": []}, "prompt is empty"),
        ({"prompt": "a", "stop": None}, "stop is None"),
        ({"prompt": "a", "stop": 5}, "stop is 5"),
        ({"prompt": "a", "state": "x"}, "wkv.State"),
        ({"prompt": "a", "sampling": {}}, "dict was given"),
        ({"prompt": "a", "sampling": wkv.Sampling(banned=(9999,))}, "banned ids"),
        ({"prompt": "a", "sampling": wkv.Sampling(banned=tuple(range(2048)))}, "ban fewer"),
    ],
)
def test_misuse_is_an_error(demo, options, match):
    with pytest.raises(wkv.WKVError, match=match):
        wkv.generate(demo, **options)
    if options["prompt"] != ["a", ""]:
        with pytest.raises(wkv.WKVError, match=match):
            list(wkv.stream(demo, **options))


@pytest.mark.parametrize(
    ("ids", "options", "match"),
    [
        ([], {}, "no tokens"),
        ([0.5], {}, "integers"),
        ([True], {}, "integers"),
        (torch.zeros(1, 1, 1, dtype=torch.int64), {}, "integers"),
        ([[1], [1, 2]], {}, "lengths="),
        ("abc", {}, "integers"),
        ([[1, 2]], {"lengths": [3]}, "1 to 2"),
        ([[1, 2]], {"lengths": [0]}, "1 to 2"),
        ([[1, 2]], {"lengths": [1, 1]}, "2 lengths"),
        ([1], {"state": {}}, "wkv.State"),
        (None, {}, "integers"),
        ([None], {}, "integers"),
        (5, {}, "integers"),
        (torch.zeros(2, dtype=torch.complex64), {}, "integers"),
        (torch.ones(2, dtype=torch.int64).to_sparse(), {}, "integers"),
        ([2**70], {}, "integers"),
        ([[1, 2]], {"lengths": [1.5]}, "expected integers"),
        ([[1, 2]], {"lengths": "a"}, "must be integers"),
        ([[1, 2]], {"lengths": [None]}, "must be integers"),
    ],
)
def test_misuse_of_forward_is_an_error(demo, ids, options, match):
    with pytest.raises(wkv.WKVError, match=match):
        demo.forward(ids, **options)


def test_states_of_other_batches_are_an_error(demo):
    _, state = demo.forward(torch.ones(2, 3, dtype=torch.int64))
    with pytest.raises(wkv.StateError, match="2 rows"):
        demo.forward([1], state)
    with pytest.raises(wkv.StateError, match="row 2"):
        state.rows([2])
    with pytest.raises(wkv.StateError, match="2 rows for 3 prompts"):
        wkv.generate(demo, ["a", "b", "c"], state=state)


def test_misuse_of_states_is_an_error(demo):
    _, state = demo.forward([1])
    for wrong in (0, "a", [0.0], ["0"], None):
        with pytest.raises(wkv.StateError, match="row"):
            state.rows(wrong)
    for wrong in ([], [None], [state, 3]):
        with pytest.raises(wkv.StateError, match="stack"):
            wkv.State.stack(wrong)


def test_changing_the_logits_or_a_clone_does_not_change_the_state(demo):
    logits, state = demo.forward([1, 2, 3])
    copy = state.clone()
    before = state.logits.clone()
    logits.zero_()
    copy.logits.zero_()
    copy.layers[0].wkv.zero_()
    assert torch.equal(state.logits, before)
    assert state.layers[0].wkv.any()


def test_the_memory_of_a_state_is_its_n_bytes(demo):
    for ids in ([1], [1, 2], list(range(100))):
        _, state = demo.forward(ids)
        storages = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for layer in state.layers
            for tensor in (layer.att_shift, layer.wkv, layer.ffn_shift)
        }
        assert sum(storages.values()) == state.n_bytes


def test_the_empty_state_can_be_saved_and_loaded(demo, tmp_path):
    demo.new_state().save(tmp_path / "s")
    loaded = wkv.State.load(tmp_path / "s", demo)
    assert loaded.tokens_seen == (0,)
    assert loaded.logits is None
    assert torch.equal(demo.forward([5], loaded)[0], demo.forward([5])[0])


def test_damaged_states_are_errors(demo, tmp_path):
    _, state = demo.forward([1, 2])
    path = tmp_path / "s.safetensors"
    state.save(path)
    assert not list(tmp_path.glob("*.partial"))
    content = path.read_bytes()
    for damaged in (b"", b"text", content[:100], content[:-10]):
        path.write_bytes(damaged)
        with pytest.raises(wkv.StateError, match=r"damaged|no state"):
            wkv.State.load(path, demo)
    with pytest.raises(wkv.StateError, match="no such file"):
        wkv.State.load(tmp_path / "gone", demo)
    with pytest.raises(wkv.StateError, match="not a saved state"):
        wkv.State.load(demo.path, demo)
    for place in (tmp_path / "no" / "folder", path / "x"):
        with pytest.raises(wkv.StateError, match="could not be written"):
            state.save(place)
    flipped = bytearray(content)
    flipped[-40] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(wkv.StateError, match="digest differs"):
        wkv.State.load(path, demo)
