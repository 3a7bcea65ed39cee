"""Replies that are cut off anywhere: nothing that the server wrote for the model is in them."""

import json

import pytest

from tests.serve.wire import HELLO, stream
from wkv.batching import TextEvent
from wkv.prompting.template import Thinking
from wkv.serve.build_constraints import ReplyFormat
from wkv.serve.parse_reply import ReplyParser

pytest.importorskip("llguidance")

CHAT = "/v1/chat/completions"
FUNCTION = {
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"],
    },
}
NAMED = {"type": "function", "function": {"name": "weather"}}
LONGEST = 40


def call_body(choice, **more):
    tools = [{"type": "function", "function": FUNCTION}]
    return {"messages": HELLO, "tools": tools, "tool_choice": choice, "seed": 1, **more}


def check(message, reason, whole):
    """Check a cut message against the whole one."""
    assert not message["content"]
    calls = message.get("tool_calls") or []
    known = whole["tool_calls"][0]["function"]
    for call in calls:
        assert call["function"]["name"] == known["name"]
        assert known["arguments"].startswith(call["function"]["arguments"])
    assert reason in ("length", "stop", "tool_calls")
    if reason == "tool_calls":
        json.loads(calls[0]["function"]["arguments"])


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_a_forced_call_may_be_cut_at_every_token(client, choice):
    whole = client.post(CHAT, json=call_body(choice)).json()["choices"][0]["message"]
    known = []
    for count in range(LONGEST):
        body = call_body(choice, max_tokens=count)
        [cut] = client.post(CHAT, json=body).json()["choices"]
        check(cut["message"], cut["finish_reason"], whole)
        assert cut["message"]["content"] is None
        chunks = stream(client, CHAT, **body)
        deltas = [one["delta"] for chunk in chunks for one in chunk["choices"]]
        assert not "".join(delta.get("content") or "" for delta in deltas)
        functions = [call["function"] for delta in deltas for call in delta.get("tool_calls") or ()]
        arguments = "".join(function["arguments"] for function in functions)
        calls = cut["message"].get("tool_calls") or []
        assert arguments == "".join(call["function"]["arguments"] for call in calls)
        known.append(len(calls))
        if cut["finish_reason"] == "tool_calls":
            break
        assert cut["finish_reason"] == "length"
    assert known == sorted(known)
    assert 0 in known
    assert known[-1] == 1


@pytest.mark.parametrize("stop", ["n", "name", '"', "weather", "arguments", "{", "}", "`", "json"])
def test_a_forced_call_may_be_cut_by_a_stop_string(client, stop):
    whole = client.post(CHAT, json=call_body("required")).json()["choices"][0]["message"]
    [cut] = client.post(CHAT, json=call_body("required", stop=stop)).json()["choices"]
    check(cut["message"], cut["finish_reason"], whole)


def test_a_forced_call_may_be_cut_in_a_response(client):
    body = {"input": "Hello", "tool_choice": "required"}
    body["tools"] = [{"type": "function", **FUNCTION}]
    [whole] = client.post("/v1/responses", json=body).json()["output"]
    assert whole["status"] == "completed"
    for count in range(0, LONGEST, 3):
        cut_body = body | {"max_output_tokens": count}
        response = client.post("/v1/responses", json=cut_body).json()
        if response["status"] == "completed":
            break
        assert response["incomplete_details"] == {"reason": "max_output_tokens"}
        for item in response["output"]:
            assert (item["type"], item["status"]) == ("function_call", "incomplete")
            assert whole["arguments"].startswith(item["arguments"])
        with client.stream("POST", "/v1/responses", json=cut_body | {"stream": True}) as answer:
            assert "output_text" not in "".join(answer.iter_text())


REPLIES = {
    Thinking.FREE: ("> Hm\n\nhm.\n</think>\n\nYes <b> no.", "Hm\n\nhm.", "Yes <b> no."),
    Thinking.SKIPPED: (">\n\nYes.", "", "Yes."),
    Thinking.PLAIN: (" Yes.", "", "Yes."),
    Thinking.A_LOT: ("\nnothing but thoughts", "nothing but thoughts", ""),
}


@pytest.mark.parametrize("mode", REPLIES)
def test_thoughts_may_be_cut_at_every_character(mode):
    text, reasoning, content = REPLIES[mode]
    for end in range(len(text) + 1):
        for pieces in ([text[:end]], list(text[:end])):
            reply = ReplyParser(mode.assistant_prefix)
            deltas = [delta for piece in pieces for delta in reply.push(TextEvent(0, piece, 1))]
            deltas += reply.finish("length")
            assert "".join(delta.get("content", "") for delta in deltas) == reply.content
            assert "".join(delta.get("reasoning", "") for delta in deltas) == reply.reasoning
            assert content.startswith(reply.content)
            # The beginning of a closing tag is the model's own text, as long as it is no tag.
            assert reasoning.startswith(reply.reasoning.partition("<")[0].rstrip())
    assert (reply.reasoning, reply.content) == (reasoning, content)


def test_a_beginning_of_the_client_is_no_part_of_the_reply():
    form = ReplyFormat()
    for begun in (" <think", " ```json", " Hello <think>"):
        reply = ReplyParser(begun, continues=True, reply_format=form)
        reply.push(TextEvent(0, "> you", 1))
        reply.finish("length")
        assert (reply.reasoning, reply.content) == ("", "> you")
