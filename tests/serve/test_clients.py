"""OpenAI's own client against the server, as people use it."""

import asyncio
import base64
import json

import httpx
import numpy as np
import pytest

from tests.serve.wire import ENDLESS, HELLO, is_idle, slow, until
from wkv.serve.service import Limits

openai = pytest.importorskip("openai")


@pytest.fixture
def ask(served):
    """Give OpenAI's client."""
    url = f"{served[0]}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client:
        yield client


def test_a_chat(ask):
    said = ask.chat.completions.create(model="test", messages=HELLO)
    assert said.choices[0].message.content.startswith("Hello!")
    assert said.choices[0].message.role == "assistant"
    assert said.choices[0].finish_reason == "stop"
    assert said.usage.total_tokens == said.usage.prompt_tokens + said.usage.completion_tokens
    assert said.usage.prompt_tokens_details.cached_tokens >= 0
    assert said.object == "chat.completion"


def test_a_stream(ask):
    whole = ask.chat.completions.create(model="test", messages=HELLO, temperature=0)
    chunks = [
        *ask.chat.completions.create(
            model="test",
            messages=HELLO,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    ]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"


def test_a_stream_of_events(ask):
    with ask.chat.completions.stream(model="test", messages=HELLO, temperature=0) as events:
        text = "".join(event.delta for event in events if event.type == "content.delta")
        final = events.get_final_completion()
    assert final.choices[0].message.content == text
    assert text.startswith("Hello!")


def test_a_stream_that_is_closed_early(ask, served):
    chunks = ask.chat.completions.create(model="test", stream=True, **_spelt(ENDLESS))
    for _ in range(5):
        next(chunks)
    chunks.close()
    assert until(lambda: is_idle(served[1])) < 5


def _spelt(body):
    """Fields that OpenAI's client does not know go beside the others."""
    body = dict(body)
    return body | {"extra_body": {"ignore_eos": body.pop("ignore_eos")}}


def test_many_settings_at_once(ask):
    said = ask.chat.completions.create(
        model="test",
        messages=[
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": [{"type": "text", "text": "Hello"}], "name": "Ann"},
        ],
        n=2,
        seed=1,
        temperature=0.5,
        top_p=0.9,
        presence_penalty=0.1,
        frequency_penalty=0.1,
        logit_bias={"5": -100},
        logprobs=True,
        top_logprobs=2,
        max_completion_tokens=9,
        stop=["\n\n"],
        user="ann",
        store=False,
        metadata={"a": "b"},
        parallel_tool_calls=True,
        service_tier="auto",
        response_format={"type": "text"},
        extra_body={"penalty_decay": 0.99, "top_k": 50},
    )
    assert len(said.choices) == 2
    entry = said.choices[0].logprobs.content[0]
    assert len(entry.top_logprobs) == 2
    assert bytes(entry.bytes).decode("utf-8", "replace") == entry.token


def test_completions(ask):
    done = ask.completions.create(model="test", prompt=["Once", "The"], max_tokens=5, logprobs=2)
    assert [choice.index for choice in done.choices] == [0, 1]
    assert len(done.choices[0].logprobs.tokens) == 5
    chunks = ask.completions.create(model="test", prompt="Once", max_tokens=5, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks)


def test_embeddings_come_as_base64_unasked(ask, served):
    sent = []
    http = httpx.Client(event_hooks={"request": [lambda request: sent.append(request.read())]})
    with openai.OpenAI(base_url=f"{served[0]}/v1", api_key="none", http_client=http) as client:
        made = client.embeddings.create(model="test", input=["a cat", "a dog"])
    assert json.loads(sent[0])["encoding_format"] == "base64"
    plain = ask.embeddings.create(model="test", input=["a cat", "a dog"], encoding_format="float")
    for ours, theirs in zip(made.data, plain.data, strict=True):
        np.testing.assert_allclose(ours.embedding, theirs.embedding, atol=1e-7)
    raw = ask.embeddings.with_raw_response.create(
        model="test", input="a cat", encoding_format="base64"
    )
    coded = json.loads(raw.text)["data"][0]["embedding"]
    assert len(base64.b64decode(coded)) == 4 * len(plain.data[0].embedding)


def test_models(ask):
    [model] = ask.models.list().data
    assert model.id == "test"
    assert ask.models.retrieve("test") == model
    assert model.owned_by == "wkv"


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("NotFoundError", {"model": "gpt-4"}),
        ("BadRequestError", {"temperature": -1}),
        ("BadRequestError", {"messages": []}),
        ("BadRequestError", {"extra_body": {"frobnicate": 1}}),
    ],
)
def test_errors_have_their_types(ask, kind, fields):
    with pytest.raises(getattr(openai, kind)) as told:
        ask.chat.completions.create(**{"model": "test", "messages": HELLO} | fields)
    assert told.value.message
    assert told.value.body["type"]
    assert set(told.value.body) == {"message", "type", "param", "code"}


def test_a_wrong_key_has_its_type(serve, demo):
    with serve(demo, keys=("right",)) as (address, _):
        with (
            openai.OpenAI(base_url=f"{address}/v1", api_key="wrong") as client,
            pytest.raises(openai.AuthenticationError) as told,
        ):
            client.models.list()
        assert told.value.code == "invalid_api_key"
        with openai.OpenAI(base_url=f"{address}/v1", api_key="right") as client:
            assert client.models.list().data


def test_who_is_refused_tries_again_and_is_answered(serve, demo, monkeypatch):
    slow(monkeypatch, demo, 0.01)
    with serve(demo, Limits(slots=1, queue=1, cache_bytes=2**24)) as (address, service):
        url = f"{address}/v1"
        fields = {"model": "test", "messages": HELLO, "max_tokens": 10}

        async def crowd(retries):
            async with openai.AsyncOpenAI(base_url=url, api_key="x", max_retries=retries) as client:
                asked = [client.chat.completions.create(**fields) for _ in range(6)]
                return await asyncio.gather(*asked, return_exceptions=True)

        said = asyncio.run(crowd(0))
        refused = [one for one in said if isinstance(one, openai.RateLimitError)]
        assert refused
        assert all(one.response.headers["retry-after"] for one in refused)
        assert len(refused) + len([one for one in said if hasattr(one, "choices")]) == 6
        said = asyncio.run(crowd(8))
        assert all(one.choices[0].message.content for one in said)
        until(lambda: is_idle(service))


def test_a_model_that_fails_has_its_type(ask, demo, monkeypatch):
    def failing(*args, **kwargs):
        raise RuntimeError("boom")

    monkeypatch.setattr(demo, "forward", failing)
    with pytest.raises(openai.InternalServerError):
        ask.chat.completions.create(model="test", messages=HELLO, seed=4)


def test_a_stream_that_fails_on_the_way_is_told(ask, demo, monkeypatch):
    slow(monkeypatch, demo, 0.01)
    chunks = ask.chat.completions.create(model="test", stream=True, **_spelt(ENDLESS))
    for _ in range(3):
        next(chunks)

    def failing(*args, **kwargs):
        raise RuntimeError("boom")

    monkeypatch.setattr(demo, "forward", failing)
    with pytest.raises(openai.APIError):
        for _ in chunks:
            pass


def test_a_whole_conversation(ask):
    messages = [{"role": "system", "content": "You are kind. " * 10}]
    for text in ("Hello", "What is 2 + 2?", "Bye"):
        messages.append({"role": "user", "content": text})
        said = ask.chat.completions.create(model="test", messages=messages)
        messages.append(said.choices[0].message)
    assert said.usage.prompt_tokens_details.cached_tokens > 40
