"""Chat over HTTP: whole, streamed, remembered."""

import json

import httpx
import pytest

import wkv
from tests.checkpoints import random_checkpoint, save_pth

HELLO = [{"role": "user", "content": "Hello"}]


def say(client, messages=HELLO, **fields):
    answer = client.post("/v1/chat/completions", json={"messages": messages, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def stream(client, messages=HELLO, **fields):
    """The chunks of a streamed answer."""
    body = {"messages": messages, "stream": True, **fields}
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200
        lines = [line for line in answer.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def joined(chunks, index=0):
    choices = [c for chunk in chunks for c in chunk["choices"] if c["index"] == index]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def test_an_answer_has_what_clients_read(client):
    answer = say(client)
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    assert answer["model"] == "test"
    [choice] = answer["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"].startswith("Hello!")
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@pytest.mark.parametrize("seed", range(3))
def test_streamed_equals_whole(client, seed):
    drawn = {"seed": seed, "temperature": 1.5, "top_p": 1, "max_tokens": 40}
    whole = say(client, **drawn)["choices"][0]
    chunks = stream(client, **drawn, stream_options={"include_usage": True})
    assert joined(chunks) == whole["message"]["content"]
    reasons = [c["finish_reason"] for chunk in chunks for c in chunk["choices"]]
    assert [reason for reason in reasons if reason] == [whole["finish_reason"]]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] > 0
    assert all("usage" in chunk for chunk in chunks)


def test_the_chat_command_says_the_same(client, demo):
    from wkv.chat import Conversation

    conversation = Conversation(demo)
    messages = []
    for text in ("Hello", "What is 12 + 30?", "Tell me a story."):
        reply = conversation.reply(text)
        said = "".join(reply).strip()
        conversation.finish(reply)
        messages.append({"role": "user", "content": text})
        content = say(client, messages)["choices"][0]["message"]["content"]
        assert content == said
        messages.append({"role": "assistant", "content": content})


def test_the_next_turn_reads_only_what_is_new(client, demo):
    messages = [{"role": "system", "content": "You are kind."}, *HELLO]
    for text in ("What is 2 + 2?", "Who are you?", "Bye"):
        answer = say(client, messages)
        messages.append(answer["choices"][0]["message"])
        messages.append({"role": "user", "content": text})
        usage = say(client, messages)["usage"]
        new = len(demo.tokenizer.encode(f"\n\nUser: {text}\n\nAssistant:"))
        unread = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
        # The separator may have been read with the reply, whose last token was not.
        assert unread <= new + 1
    usage = say(client, messages)["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"]


def test_choices_differ_and_follow_their_seed(client):
    def contents(**fields):
        answer = say(client, temperature=2, top_p=1, max_tokens=12, **fields)
        return [choice["message"]["content"] for choice in answer["choices"]]

    three = contents(n=3, seed=5)
    assert len(set(three)) == 3
    assert contents(n=3, seed=5) == three
    assert contents(seed=5) == three[:1]
    assert contents(seed=-1) != contents(seed=-1)  # as in other local servers, -1 is random


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_minus_one_is_no_limit(client, name):
    whole = say(client)
    assert say(client, **{name: -1})["choices"] == whole["choices"]
    assert say(client, top_k=-1, temperature=0)["choices"] == whole["choices"]
    cut = say(client, ignore_eos=True, stop="zzzz", **{name: 3})
    assert cut["choices"][0]["finish_reason"] == "length"


def test_chances_of_tokens(client, demo):
    answer = say(client, logprobs=True, top_logprobs=3, max_tokens=5)["choices"][0]
    content = answer["logprobs"]["content"]
    assert len(content) == 5
    assert "".join(entry["token"] for entry in content) == answer["message"]["content"]
    for entry in content:
        assert len(entry["top_logprobs"]) == 3
        assert entry["logprob"] == entry["top_logprobs"][0]["logprob"]  # drawn without chance
        assert bytes(entry["bytes"]).decode() == entry["token"]
    chunks = stream(client, logprobs=True, top_logprobs=3, max_tokens=5)
    streamed = [
        entry
        for chunk in chunks
        for choice in chunk["choices"]
        if choice["logprobs"]
        for entry in choice["logprobs"]["content"]
    ]
    assert streamed == content


def test_bias_and_stop_strings(client, demo):
    first = say(client, max_tokens=8)["choices"][0]["message"]["content"]
    ids = demo.tokenizer.encode(f" {first}")
    other = say(client, max_tokens=8, logit_bias={str(ids[0]): -100})
    assert other["choices"][0]["message"]["content"] != first
    cut = say(client, stop=["built-in"])["choices"][0]
    assert cut["finish_reason"] == "stop"
    assert cut["message"]["content"].endswith("the ")
    assert joined(stream(client, stop="built-in")) == cut["message"]["content"]


def test_a_last_message_of_the_assistant_is_gone_on_with(client):
    whole = say(client)["choices"][0]["message"]["content"]
    for written in range(1, 12):  # where it was cut off, be it within a word
        begun = say(client, max_tokens=written)["choices"][0]["message"]
        rest = say(client, [*HELLO, begun])["choices"][0]["message"]["content"]
        assert begun["content"] + rest == whole
    begun = {"role": "assistant", "content": "Hello!"}
    assert "Hello!" + say(client, [*HELLO, begun])["choices"][0]["message"]["content"] == whole


def test_parts_of_a_message_are_joined(client):
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    assert say(client, [{"role": "user", "content": parts}])["choices"] == say(client)["choices"]


def test_thoughts_are_told_apart():
    from wkv.batching import TextEvent
    from wkv.serve.parse_reply import ReplyParser

    for assistant_prefix, text in (
        (" <think", "> Hm\n\nhm </think>\nYes."),
        ("", " <think>Hm\n\nhm</think> Yes."),
    ):
        for cut in range(len(text)):
            reply = ReplyParser(assistant_prefix)
            deltas = reply.push(TextEvent(0, text[:cut], 1)) + reply.push(
                TextEvent(0, text[cut:], 2)
            )
            deltas += reply.finish("stop")
            assert (reply.reasoning, reply.content) == ("Hm\n\nhm", "Yes.")
            assert "".join(delta.get("reasoning", "") for delta in deltas) == "Hm\n\nhm"
            assert reply.body["reasoning"] == "Hm\n\nhm"


def test_a_model_that_thinks_is_asked_to(serve, tmp_path):
    """A random model with the World vocabulary stands for one that was trained to."""
    path = tmp_path / "world.pth"
    save_pth(random_checkpoint("7", n_layer=2, n_embd=64, vocab_size=65536), path)
    with (
        serve(wkv.load(path, "cpu fp32")) as (address, service),
        httpx.Client(base_url=address, timeout=30) as client,
    ):
        read = []
        service.scheduler_thread.submit = lambda request, submit=service.scheduler_thread.submit: (
            read.append(service.model.tokenizer.decode(request.ids)) or submit(request)
        )
        for effort in (None, "none", "low", "medium", "high"):
            say(client, reasoning_effort=effort, max_tokens=3)
        assert read == [
            "User: Hello\n\nAssistant:",
            "User: Hello\n\nAssistant: <think>\n</think",
            "User: Hello (think a bit)\n\nAssistant: <think",
            "User: Hello\n\nAssistant: <think",
            "User: Hello (think a lot)\n\nAssistant: <think",
        ]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"messages": []}, 400, "messages"),
        ({"messages": HELLO, "frobnicate": 1}, 400, "frobnicate"),
        ({"messages": [{"role": "robot", "content": "x"}]}, 400, "messages.0.role"),
        ({"messages": HELLO, "temperature": -1}, 400, "temperature"),
        ({"messages": HELLO, "temperature": "hot"}, 400, "temperature"),
        ({"messages": HELLO, "max_tokens": 10**12}, 400, "max_tokens"),
        ({"messages": HELLO, "n": 1000}, 400, "n"),
        ({"messages": HELLO, "n": 100}, 400, None),
        ({"messages": HELLO, "logit_bias": {"x": 1}}, 400, "logit_bias"),
        ({"messages": HELLO, "logit_bias": {"99999999": 1}}, 400, "logit_bias"),
        ({"messages": HELLO, "model": "gpt-4"}, 404, "model"),
        ({"messages": HELLO, "reasoning_effort": "high"}, 400, "reasoning_effort"),
        ({"messages": HELLO, "reasoning_effort": "endless"}, 400, "reasoning_effort"),
        ({"messages": HELLO, "state": "../../etc/passwd"}, 404, None),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, None),
        ([], 400, None),
        ("text", 400, None),
        (None, 400, None),
    ],
)
def test_wrong_bodies_are_told(client, body, status, param):
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    if param:
        assert error["param"].startswith(param)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff\xfe", b'{"messages": NaN}', b"[" * 100_000, b'{"temperature": 1e999}'],
)
def test_broken_json_is_told(client, data):
    headers = {"Content-Type": "application/json"}
    answer = client.post("/v1/chat/completions", content=data, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_a_lone_surrogate_is_told(client):
    body = b'{"messages": [{"role": "user", "content": "\\ud800"}]}'
    headers = {"Content-Type": "application/json"}
    answer = client.post("/v1/chat/completions", content=body, headers=headers)
    assert answer.status_code == 400
