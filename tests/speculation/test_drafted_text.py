"""Speculative decoding gives the text and the states of plain decoding, whatever is drafted."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import wkv
from tests.checkpoints import random_checkpoint, save_pth
from wkv.inference.decode import RunningBatch, absorb
from wkv.inference.sequence import RunningSequence
from wkv.inference.speculation import Speculation, speculation_for
from wkv.inference.speculation.pass_costs import TABLES, PassCosts
from wkv.native import library

pytestmark = pytest.mark.skipif(
    library.missing_reason() is not None, reason=str(library.missing_reason())
)

FORMATS = {"4": "bf16", "5.2": "fp16", "6": "int4", "7": "int8"}
GREEDY = wkv.Sampling(temperature=0, presence_penalty=0, frequency_penalty=0)
PROMPT = "the cat and the cat and "


@pytest.fixture(scope="module")
def byte_models(tmp_path_factory):
    """Give a small random model whose ids are bytes for several generations and formats."""
    folder, models = tmp_path_factory.mktemp("speculation"), {}
    for generation, form in FORMATS.items():
        path = folder / f"{generation}.pth"
        save_pth(random_checkpoint(generation, n_layer=2, n_embd=64, vocab_size=256), path)
        models[generation] = wkv.load(path, f"cpu {form}")
    return models


class Scripted(Speculation):
    """Drafts the true continuation with some tokens replaced, in pieces of random length."""

    def __init__(self, truth, share_wrong, chance, longest=12):
        super().__init__(PassCosts(TABLES["fp32"], is_fixed=True))
        self.truth, self.share_wrong, self.chance = truth, share_wrong, chance
        self.longest = longest
        self.passes = 0

    def next_drafts(self, sequences):
        self.passes += 1
        return [self._draft(one) for one in sequences]

    def _draft(self, sequence):
        ids = self.truth.get(sequence.sampler.choice, [])
        count = self.chance.randint(0, self.longest)
        ahead = ids[len(sequence.token_ids) :][:count]
        return [
            self.chance.randrange(256) if self.chance.random() < self.share_wrong else token
            for token in ahead
        ]


def sequence_of(model, case, choice=0):
    return RunningSequence(
        model.tokenizer,
        case["sampling"],
        case["max_tokens"],
        case["stops"],
        case["processor"],
        None,
        choice,
    )


def decode(model, sequences, prompt, speculation):
    """Decode sequences after one prompt; returns their states, which have read everything."""
    batch, states = RunningBatch(model, speculation), {}
    _, state = model.forward(list(prompt.encode()))
    batch.add(sequences, [state] * len(sequences))
    while batch.sequences:
        assert all(event.error is None for event in batch.sample())
        done = batch.complete()
        states |= dict(zip(map(id, done), batch.remove(done), strict=True))
        batch.forward()
        done = batch.complete()
        states |= dict(zip(map(id, done), batch.remove(done), strict=True))
    return [states[id(one)] for one in sequences]


def assert_equal_states(one, other):
    assert one.tokens_seen == other.tokens_seen
    assert torch.equal(one.logits, other.logits)
    for a, b in zip(one.layers, other.layers, strict=True):
        assert torch.equal(a.wkv, b.wkv)
        assert torch.equal(a.att_shift, b.att_shift)
        assert torch.equal(a.ffn_shift, b.ffn_shift)


def biased(logits, sampled):
    """Change the logits in a way that depends on the tokens so far, and forbid some ids."""
    logits = logits.clone()
    logits[len(sampled) % 7 :: 7] = -torch.inf
    logits[sampled[-1] if sampled else 0] += 2
    return logits


cases = st.fixed_dictionaries(
    {
        "sampling": st.builds(
            wkv.Sampling,
            temperature=st.sampled_from([0, 0.7, 1.0]),
            top_p=st.sampled_from([0.5, 0.9, 1.0]),
            top_k=st.sampled_from([0, 5]),
            presence_penalty=st.sampled_from([0, 0.4]),
            frequency_penalty=st.sampled_from([0, 0.4]),
            seed=st.integers(0, 99),
            banned=st.sampled_from([(), (0, 101)]),
        ),
        "max_tokens": st.integers(1, 20),
        "stops": st.sampled_from([(), ("e",), ("a", "\x7f")]),
        "processor": st.sampled_from([None, biased]),
    }
)


@given(
    case=cases,
    generation=st.sampled_from(list(FORMATS)),
    share_wrong=st.sampled_from([0, 0.2, 1]),
    choices=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_any_drafts_give_the_text_and_the_bits_of_plain_decoding(
    byte_models, case, generation, share_wrong, choices, seed
):
    model = byte_models[generation]
    plain = [sequence_of(model, case, choice) for choice in range(choices)]
    expected = decode(model, plain, PROMPT, None)
    truth = {one.sampler.choice: [*one.token_ids, 7, 7] for one in plain}
    truth.pop(2, None)  # the third sequence of a batch gets no drafts
    speculation = Scripted(truth, share_wrong, random.Random(seed))
    drafted = [sequence_of(model, case, choice) for choice in range(choices)]
    states = decode(model, drafted, PROMPT, speculation)
    for one, other, state, wanted in zip(drafted, plain, states, expected, strict=True):
        assert (one.token_ids, one.text) == (other.token_ids, other.text)
        assert one.finish_reason == other.finish_reason
        assert_equal_states(state, wanted)


@pytest.mark.parametrize("generation", FORMATS)
def test_streams_can_end_after_any_piece(byte_models, generation):
    model, sampling = byte_models[generation], wkv.Sampling(seed=4, temperature=0.6, top_p=0.7)
    whole = wkv.generate(model, PROMPT, sampling=sampling, max_tokens=24, speculate="off")
    for count in range(1, 20, 3):
        speculation = Scripted({0: whole.token_ids}, 0.15, random.Random(count))
        stream = wkv.stream(model, PROMPT, sampling=sampling, max_tokens=24, speculate=speculation)
        shown = "".join(next(stream) for _ in range(count))
        done = stream.result
        assert done.text.startswith(shown)
        assert list(done.token_ids) == whole.token_ids[: len(done.token_ids)]
        _, state = model.forward(list(PROMPT.encode()))
        for token in done.token_ids:
            _, state = model.forward([token], state)
        assert_equal_states(done.state, state)


def test_sequences_may_leave_the_batch_within_a_pass_and_come_back(byte_models):
    model, case = (
        byte_models["7"],
        {
            "sampling": wkv.Sampling(seed=1),
            "max_tokens": 30,
            "stops": (),
            "processor": None,
        },
    )
    plain = [sequence_of(model, case, choice) for choice in range(3)]
    expected = decode(model, plain, PROMPT, None)
    chance = random.Random(5)
    truth = {one.sampler.choice: one.token_ids for one in plain}
    batch = RunningBatch(model, Scripted(truth, 0.1, chance))
    drafted = [sequence_of(model, case, choice) for choice in range(3)]
    _, state = model.forward(list(PROMPT.encode()))
    waiting, ended = dict.fromkeys(drafted, state), {}
    while waiting or batch.sequences:
        back = [one for one in waiting if chance.random() < 0.6]
        batch.add(back, [waiting.pop(one) for one in back])
        batch.sample()
        gone = [one for one in batch.sequences if one.finish_reason or chance.random() < 0.2]
        for one, after in zip(gone, batch.remove(gone), strict=True):
            (waiting if one.finish_reason is None else ended)[one] = after
        batch.forward()
    for one, other, wanted in zip(drafted, plain, expected, strict=True):
        assert one.token_ids == other.token_ids
        assert_equal_states(absorb(model, ended[one], one), wanted)


@pytest.mark.parametrize("after", [False, True])
def test_ctrl_c_within_a_pass_leaves_the_state_of_the_accepted_tokens(
    byte_models, monkeypatch, after
):
    model, sampling = byte_models["6"], wkv.Sampling(seed=2, temperature=0.5)
    whole = wkv.generate(model, PROMPT, sampling=sampling, max_tokens=40, speculate="off")
    for number in range(1, 9):
        speculation = Scripted({0: whole.token_ids}, 0.1, random.Random(number), longest=6)
        stream = wkv.stream(model, PROMPT, sampling=sampling, max_tokens=40, speculate=speculation)
        next(stream)
        calls = 0

        def interrupted(call, number=number):
            def forward(*args, **options):
                nonlocal calls
                calls += 1
                if calls == number and not after:
                    raise KeyboardInterrupt
                result = call(*args, **options)
                if calls == number:
                    raise KeyboardInterrupt
                return result

            return forward

        with monkeypatch.context() as patch:
            for name in ("forward", "forward_rewindable"):
                patch.setattr(model, name, interrupted(getattr(model, name)))
            list(stream)
        done = stream.result
        assert done.finish_reason in ("interrupted", "length")
        assert done.token_ids == whole.token_ids[: len(done.token_ids)]
        _, state = model.forward([*PROMPT.encode(), *done.token_ids])
        assert_equal_states(done.state, state)


def test_the_numbers_are_those_of_the_passes_of_the_model(demo, monkeypatch):
    text = "one two three four one two three four one two three"
    whole = {"sampling": GREEDY, "max_tokens": 60}
    _, state = demo.forward(demo.tokenizer.encode(text))
    rows = []

    def counting(call):
        def forward(ids, *args, **options):
            rows.append(torch.as_tensor(ids).numel())
            return call(ids, *args, **options)

        return forward

    for name in ("forward", "forward_rewindable"):
        monkeypatch.setattr(demo, name, counting(getattr(demo, name)))
    stream = wkv.stream(
        demo,
        "",
        state=state,
        speculate=4,
        context=demo.tokenizer.encode(text),
        **whole,
    )
    list(stream)
    passes, read = len(rows), sum(rows)
    done = stream.result
    assert done.drafts.accepted > 10
    assert done.drafts.passes == passes
    assert done.drafts.passes + done.drafts.drafted == read
    # The first token needs no pass, and the last one is read for `result`.
    assert len(done.token_ids) == 1 + done.drafts.passes + done.drafts.accepted
    plain = wkv.generate(demo, "", state=state, speculate="off", **whole)
    assert (done.text, done.token_ids) == (plain.text, plain.token_ids)
    assert (plain.drafts.passes, plain.drafts.drafted) == (0, 0)


def test_auto_is_off_and_a_number_is_an_error_where_bits_differ(models):
    model = models["7a"]  # runs on PyTorch
    assert speculation_for(model, "auto") is None
    with pytest.raises(wkv.InputError, match="the engine torch rounds several rows"):
        speculation_for(model, 4)


@pytest.mark.parametrize("speculate", [0, 17, -1, 2.5, True, "on", None])
def test_other_values_are_refused(demo, speculate):
    with pytest.raises(wkv.InputError, match="expected 'auto', 'off' or a number from 1 to 16"):
        wkv.generate(demo, "Alice", speculate=speculate)
