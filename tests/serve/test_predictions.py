"""Speculative decoding in the server: the same replies, predictions, usage, metrics, grammars."""

import random

import httpx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import wkv
from tests.serve.conftest import running
from wkv.batching import ChoiceDone, Request, Scheduler, StateCache
from wkv.constraints.grammar import Grammars
from wkv.inference.sequence import DraftGuide
from wkv.inference.speculation import speculation_for
from wkv.native import library
from wkv.serve.app import create_app
from wkv.serve.build_constraints import ProcessorChain
from wkv.serve.service import Limits, ServerSettings

pytest.importorskip("llguidance")
pytestmark = pytest.mark.skipif(
    library.missing_reason() is not None, reason=str(library.missing_reason())
)

GREEDY = wkv.Sampling(temperature=0, presence_penalty=0, frequency_penalty=0)


def results(model, requests, speculation, pauses):
    """Run requests that arrive at different steps; returns the ends of their choices."""
    scheduler = Scheduler(model, StateCache(2**24), slots=3, speculation=speculation)
    events = [[] for _ in requests]
    for request, received, pause in zip(requests, events, pauses, strict=True):
        scheduler.submit(request, received.append)
        for _ in range(pause):
            scheduler.step()
    for _ in range(2000):
        if not scheduler.step():
            break
    assert scheduler.load.is_idle
    ends = [[one for one in received if isinstance(one, ChoiceDone)] for received in events]
    return [sorted(one, key=lambda end: end.choice) for one in ends]


@given(st.data())
def test_requests_that_share_passes_get_the_tokens_of_plain_decoding(demo, data):
    texts = data.draw(
        st.lists(
            st.sampled_from(["one two one two one", "Alice was", "la la la la", "x"]),
            min_size=1,
            max_size=4,
        )
    )
    pauses = [data.draw(st.integers(0, 3)) for _ in texts]
    requests = [
        Request(
            ids=tuple(demo.tokenizer.encode(text)),
            sampling=GREEDY if number % 2 else wkv.Sampling(seed=number, top_p=0.4),
            max_tokens=data.draw(st.integers(1, 25)),
            stops=("\n",),
            choices=data.draw(st.integers(1, 2)),
            prediction=(5, 6, 7) if number == 1 else (),
        )
        for number, text in enumerate(texts)
    ]
    plain = results(demo, requests, None, pauses)
    drafted = results(demo, requests, speculation_for(demo, data.draw(st.integers(1, 6))), pauses)
    for one, other in zip(plain, drafted, strict=True):
        assert [end.token_ids for end in one] == [end.token_ids for end in other]
        assert [end.finish_reason for end in one] == [end.finish_reason for end in other]


@pytest.fixture(scope="module")
def drafting(demo):
    """Give a client of a server that drafts up to 6 tokens, and the metrics' text."""
    app = create_app(demo, ServerSettings("test"), Limits(), speculation_for(demo, 6))
    with running(app) as address, httpx.Client(base_url=address, timeout=60) as client:
        yield client


def ask(client, **fields):
    body = {
        "messages": [{"role": "user", "content": "Count from 1 to 9."}],
        "max_tokens": 30,
        "temperature": 0,
        "presence_penalty": 0,
        "frequency_penalty": 0,
    }
    response = client.post("/v1/chat/completions", json=body | fields)
    return response.json()


def counter(client, name):
    line = next(x for x in client.get("/metrics").text.splitlines() if x.startswith(name + " "))
    return float(line.split()[1])


def test_a_prediction_is_accepted_and_counted(drafting, client):
    plain = ask(client)
    text = plain["choices"][0]["message"]["content"]
    assert plain["usage"]["completion_tokens_details"]["accepted_prediction_tokens"] == 0
    before = [counter(drafting, f"wkv_{name}_total") for name in ("drafted_tokens",)]
    answer = ask(drafting, prediction={"type": "content", "content": text})
    assert answer["choices"][0]["message"]["content"] == text
    details = answer["usage"]["completion_tokens_details"]
    assert details["accepted_prediction_tokens"] > answer["usage"]["completion_tokens"] / 2
    drafted = details["accepted_prediction_tokens"] + details["rejected_prediction_tokens"]
    assert counter(drafting, "wkv_drafted_tokens_total") - before[0] == drafted
    assert counter(drafting, "wkv_accepted_draft_tokens_total") > 0
    wrong = ask(
        drafting,
        prediction={
            "type": "content",
            "content": [{"type": "text", "text": "Something else entirely."}],
        },
    )
    assert wrong["choices"][0]["message"]["content"] == text
    streamed = drafting.post(
        "/v1/chat/completions",
        json={
            "messages": [{"role": "user", "content": "Count from 1 to 9."}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": 30,
            "temperature": 0,
        },
    )
    assert "accepted_prediction_tokens" in streamed.text


@pytest.mark.parametrize(
    ("prediction", "param"),
    [
        ("text", "prediction"),
        ({"type": "content"}, "prediction.content"),
        ({"type": "other", "content": "x"}, "prediction.type"),
        ({"type": "content", "content": 5}, "prediction.content"),
    ],
)
def test_wrong_predictions_are_refused(drafting, prediction, param):
    error = ask(drafting, prediction=prediction)["error"]
    assert error["param"].startswith(param.split(".")[0])


def test_completions_count_drafts_too(drafting):
    body = {"prompt": "one two one two one two", "max_tokens": 20, "temperature": 0}
    usage = drafting.post("/v1/completions", json=body).json()["usage"]
    details = usage["completion_tokens_details"]
    assert details["accepted_prediction_tokens"] + details["rejected_prediction_tokens"] > 0


SCHEMA = {
    "type": "object",
    "properties": {"colors": {"type": "array", "items": {"enum": ["red", "green"]}, "maxItems": 4}},
    "required": ["colors"],
    "additionalProperties": False,
}


def test_drafts_follow_a_grammar_and_its_text_is_that_of_plain_decoding(demo):
    grammar = Grammars(demo.tokenizer, demo.config.vocab_size).json_schema(SCHEMA)
    prompt = 'A: {"colors": ["red", "green", "red"]}\nB:'
    for seed in range(4):
        sampling = GREEDY if seed == 0 else wkv.Sampling(seed=seed, top_p=0.6)
        done = []
        for speculate in ("off", 3, 8, "auto"):
            stream = wkv.stream(
                demo,
                prompt,
                sampling=sampling,
                max_tokens=40,
                speculate=speculate,
                logits_processor=ProcessorChain([lambda x, _: x + 0.1, grammar.logits_processor()]),
            )
            list(stream)
            done.append(stream.result)
        assert len({(one.text, tuple(one.token_ids), one.finish_reason) for one in done}) == 1
        assert all(torch.equal(one.state.logits, done[0].state.logits) for one in done)


def test_a_grammar_knows_what_is_certain_and_what_is_impossible(demo):
    grammar = Grammars(demo.tokenizer, demo.config.vocab_size).json_schema(SCHEMA)
    constraint, oracle = grammar.logits_processor(), grammar.logits_processor()
    assert isinstance(constraint, DraftGuide)
    chance, sampled, cuts, certain_ids = random.Random(1), [], 0, 0
    for _ in range(40):
        allowed = torch.isfinite(oracle(torch.zeros(demo.config.vocab_size), sampled)).nonzero()
        allowed = allowed[:, 0].tolist()
        certain = constraint.certain(sampled, 3)
        is_certain = len(allowed) == 1 and allowed != [demo.tokenizer.end_of_text]
        assert certain[:1] == (allowed if is_certain else [])
        certain_ids += len(certain)
        if allowed == [demo.tokenizer.end_of_text]:
            break
        token = chance.choice([one for one in allowed if one != demo.tokenizer.end_of_text])
        wrong = next(id for id in range(1, 2000) if id not in allowed)
        assert constraint.cut(sampled, [wrong, token]) == []
        assert constraint.cut(sampled, [token])[:1] == [token]
        follower = grammar.logits_processor()
        mask = follower(torch.zeros(demo.config.vocab_size), [*sampled, token])
        impossible = int((~torch.isfinite(mask)).nonzero()[-1, 0])
        assert constraint.cut(sampled, [token, impossible]) == [token]
        cuts += 1
        sampled.append(token)
    assert cuts > 3
    assert certain_ids > 0
