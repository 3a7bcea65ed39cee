"""On a GPU, the next step starts before the host handles the tokens of the last one."""

import pytest
import torch

import wkv
from tests.checkpoints import random_checkpoint, save_pth
from tests.gpu_models import on_gpu_engine
from wkv.batching import Request, RequestFailed, Scheduler, StateCache, TextEvent
from wkv.batching.scheduler import default_prefill_chunk
from wkv.errors import BusyError
from wkv.inference.decode import RunningBatch
from wkv.inference.sequence import RunningSequence

SAMPLING = wkv.Sampling(temperature=1, top_p=1, presence_penalty=0.3, frequency_penalty=0.3, seed=1)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    path = tmp_path_factory.mktemp("ahead") / "bytes.pth"
    save_pth(random_checkpoint("7", n_layer=2, n_embd=64, vocab_size=256), path)
    model = wkv.load(path, "cpu fp32", engine="torch")
    model.network.double()
    return model


def log_calls(monkeypatch, model):
    """Return a list that gets a word for each step of the model and each handled token."""
    calls = []
    step, accept = model._step_network.step, RunningSequence.accept
    monkeypatch.setattr(
        model._step_network, "step", lambda *inputs: (calls.append("step"), step(*inputs))[1]
    )
    monkeypatch.setattr(
        RunningSequence,
        "accept",
        lambda self, token: (calls.append("accept"), accept(self, token))[1],
    )
    return calls


def test_a_step_starts_before_the_tokens_that_it_reads_are_handled(plain, monkeypatch):
    model = on_gpu_engine(plain, slots=20)
    calls = log_calls(monkeypatch, model)
    wkv.generate(model, ["ab", "cd", "ef"], sampling=SAMPLING, max_tokens=5)
    assert calls == ["step", "accept", "accept", "accept"] * 5


@pytest.mark.parametrize("stop", [(), ("e", "q"), ("\n", "a", "t")])
def test_texts_and_states_are_those_of_the_plain_loop(plain, stop):
    model = on_gpu_engine(plain, slots=40)
    prompts = ["hello", "what is", "x", "the end of it"]
    options = {"sampling": SAMPLING, "max_tokens": 25, "stop": stop}
    for result, expected in zip(
        wkv.generate(model, prompts, **options),
        wkv.generate(plain, prompts, **options),
        strict=True,
    ):
        assert result.token_ids == expected.token_ids
        assert result.text == expected.text
        assert result.state.tokens_seen == expected.state.tokens_seen
        for mine, theirs in zip(result.state.layers, expected.state.layers, strict=True):
            assert torch.allclose(mine.wkv, theirs.wkv, atol=1e-9)
    assert "".join(wkv.stream(model, "hello", **options)) == "".join(
        wkv.stream(plain, "hello", **options)
    )


def test_rows_may_leave_and_come_back_while_a_step_runs(plain):
    texts = []
    for model in (plain, on_gpu_engine(plain, slots=20)):
        batch = RunningBatch(model)
        ones = [RunningSequence(model.tokenizer, SAMPLING, 12, (), choice=i) for i in range(3)]
        states = [model.forward(list(text))[1] for text in (b"one", b"two", b"three")]
        batch.add(ones[:2], states[:2])
        for step in range(10):
            batch.sample()
            if step == 2:
                batch.add(ones[2:], states[2:])  # it has not sampled a token yet
                batch.sample()
            elif step == 5:
                (left,) = batch.remove(ones[:1])
                assert ones[0].unread(left.tokens_seen[0]) == ones[0].token_ids[-1:]
            elif step == 6:
                batch.add(ones[:1], [left])
            batch.forward()
        texts.append([one.text for one in ones])
    assert texts[0] == texts[1]


def submit(scheduler, text, **fields):
    events = []
    ids = tuple(text.encode())
    scheduler.submit(Request(ids=ids, sampling=SAMPLING, **fields), events.append)
    return events


def finish(scheduler):
    for _ in range(500):
        if not scheduler.step():
            return
    raise AssertionError("the scheduler does not become idle")


def tokens(events):
    return [event.token for event in events if isinstance(event, TextEvent)]


def test_requests_for_which_there_is_no_memory_are_refused_and_others_go_on(plain):
    expected = Scheduler(plain, StateCache(0))
    alone = [submit(expected, text, max_tokens=20) for text in ("first", "second", "third", "more")]
    finish(expected)
    model = on_gpu_engine(plain, slots=2 + 5)
    scheduler = Scheduler(model, StateCache(2**24), slots=4)
    cached = submit(scheduler, "a prompt that is cached " * 4, max_tokens=2)
    finish(scheduler)
    assert len(scheduler.cache) > 0
    together = [submit(scheduler, text, max_tokens=20) for text in ("first", "second", "third")]
    finish(scheduler)
    refused = [isinstance(events[-1], RequestFailed) for events in together]
    assert sorted(refused) == [False, False, True]
    for found, expected_events in zip(together, alone, strict=False):
        if isinstance(found[-1], RequestFailed):
            assert isinstance(found[-1].error, BusyError)
        else:
            assert tokens(found) == tokens(expected_events)
    assert len(scheduler.cache) > 0  # of the requests that have ended since
    later = submit(scheduler, "more", max_tokens=20)
    finish(scheduler)
    assert tokens(later) == tokens(alone[3])
    assert not isinstance(cached[-1], RequestFailed)


def test_a_prompt_for_which_there_is_no_memory_is_refused(plain, monkeypatch):
    model = on_gpu_engine(plain, slots=20)
    scheduler = Scheduler(model, StateCache(2**24))
    running = submit(scheduler, "running", max_tokens=8)
    scheduler.step()
    refused = submit(scheduler, "refused", max_tokens=8)
    monkeypatch.setattr(model.network.__class__, "_run_rows", _no_memory)
    finish(scheduler)
    monkeypatch.undo()
    assert isinstance(refused[-1].error, BusyError)
    assert len(tokens(running)) == 8


def _no_memory(*_):
    raise BusyError("the memory of cuda does not suffice")


def test_prompts_are_read_in_pieces_of_thousands_of_tokens_on_a_gpu(plain, monkeypatch):
    model = on_gpu_engine(plain, slots=20)
    monkeypatch.setattr("wkv.inference.model.TOKENS_AT_ONCE", 4096)
    scheduler = Scheduler(model, StateCache(0))
    assert scheduler.prefill_chunk == default_prefill_chunk(model) == 4096
    rows = []
    run = model.network._run_rows
    monkeypatch.setattr(
        model.network, "_run_rows", lambda ids, *rest: (rows.append(len(ids)), run(ids, *rest))[1]
    )
    submit(scheduler, "x" * 5000, max_tokens=1, cache=False)
    submit(scheduler, "y" * 700, max_tokens=1, cache=False)
    finish(scheduler)
    assert max(rows) > 2000
    assert sum(rows) == 5700
