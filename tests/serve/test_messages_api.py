"""`/v1/messages`: Anthropic's client, the events of streams, errors, and what agents send."""

import json

import anthropic
import httpx
import pytest

from tests.serve.wire import slow
from wkv.serve import stream_reply
from wkv.serve.anthropic_reply import SIGNATURE, BlockEvents, blocks_of, stop_reason
from wkv.serve.anthropic_request import chat_request
from wkv.serve.chat_messages import NO_IMAGE
from wkv.serve.parse_reply import ReplyParser
from wkv.serve.protocol.anthropic import MESSAGE_EVENTS, MessageObject, MessagesRequest
from wkv.serve.protocol.errors import ApiError

PATH = "/v1/messages"
ADD = [{"role": "user", "content": "What is 3 plus 4?"}]
TOOL = {
    "name": "weather",
    "description": "Get the weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
    "cache_control": {"type": "ephemeral"},
    "eager_input_streaming": True,
}
GREEDY = {"temperature": 0}  # newer versions of the client have no argument for it


@pytest.fixture(scope="module")
def sdk(served):
    with anthropic.Anthropic(base_url=served[0], api_key="none", max_retries=0) as one:
        yield one


def ask(client, **fields):
    body = {"model": "test", "max_tokens": 20, "messages": ADD, "temperature": 0, **fields}
    return client.post(PATH, json=body)


def events_of(client, **fields):
    body = {"model": "test", "max_tokens": 20, "messages": ADD, "temperature": 0, **fields}
    with client.stream("POST", PATH, json={**body, "stream": True}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        frames = "".join(answer.iter_text()).strip().split("\n\n")
    events = []
    for frame in frames:
        name, data = frame.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        model = {kind.model_fields["type"].annotation.__args__[0]: kind for kind in MESSAGE_EVENTS}
        model[event["type"]].model_validate(event)
        events.append(event)
    return events


def test_the_official_client(sdk):
    fields = {"model": "test", "max_tokens": 20, "messages": ADD, "extra_body": GREEDY}
    message = sdk.messages.create(**fields)
    assert message.content[0].text == "3 + 4 = 7"
    assert message.stop_reason == "end_turn"
    assert message.usage.input_tokens > 5
    with sdk.messages.stream(**fields) as stream:
        assert "".join(stream.text_stream) == "3 + 4 = 7"
        final = stream.get_final_message()
    assert final.content[0].text == message.content[0].text
    assert final.usage.output_tokens == message.usage.output_tokens
    counted = sdk.messages.count_tokens(model="test", messages=ADD)
    usage = message.usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)
    assert [model.id for model in sdk.models.list()] == ["test"]
    assert sdk.models.retrieve("test").display_name == "test"


def test_the_official_client_calls_a_tool(sdk):
    tools, choice = [TOOL], {"type": "any", "disable_parallel_tool_use": True}
    fields = {"model": "test", "max_tokens": 60, "tools": tools, "extra_body": GREEDY}
    asked = [{"role": "user", "content": "What is the weather in Paris?"}]
    message = sdk.messages.create(messages=asked, tool_choice=choice, **fields)
    (call,) = message.content
    assert (message.stop_reason, call.type, call.name) == ("tool_use", "tool_use", "weather")
    assert call.id.startswith("toolu_")
    with sdk.messages.stream(messages=asked, tool_choice=choice, **fields) as stream:
        assert stream.get_final_message().content[0].input == call.input
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "It is sunny."}
    history = [
        *asked,
        {"role": "assistant", "content": [call.to_dict()]},
        {"role": "user", "content": [result, {"type": "text", "text": "So?"}]},
    ]
    after = sdk.messages.create(messages=history, tool_choice=choice, **fields)
    assert after.usage.cache_read_input_tokens > 50


def test_errors_of_the_official_client(sdk):
    with pytest.raises(anthropic.NotFoundError, match="is not served here"):
        sdk.messages.create(model="claude", max_tokens=1, messages=ADD)
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        sdk.messages.create(model="test", max_tokens=-5, messages=ADD)


def test_a_key_in_either_header_is_enough(demo, serve):
    with serve(demo, keys=("secret",)) as (address, _), httpx.Client(base_url=address) as client:
        body = {"model": "test", "max_tokens": 1, "messages": ADD}
        for headers in (
            {"x-api-key": "secret"},
            {"Authorization": "Bearer secret"},
            {"x-api-key": "secret", "Authorization": "Bearer other"},
            {"x-api-key": "other", "Authorization": "Bearer secret"},
        ):
            assert client.post(PATH, json=body, headers=headers).status_code == 200
        for headers in ({}, {"x-api-key": "other"}, {"Authorization": "Basic secret"}):
            answer = client.post(PATH, json=body, headers=headers)
            assert answer.status_code == 401
            assert answer.json()["error"]["type"] == "authentication_error"
            assert answer.json()["request_id"] == answer.headers["request-id"]


def test_events_of_a_stream(client):
    events = events_of(client)
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert events[0]["message"]["content"] == []
    text = "".join(
        event["delta"]["text"] for event in events if "content_block_delta" in str(event)
    )
    whole = ask(client).json()
    assert text == whole["content"][0]["text"] == "3 + 4 = 7"
    assert events[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert events[-2]["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
    MessageObject.model_validate(whole)


@pytest.mark.parametrize(
    ("fields", "reason", "stop"),
    [
        ({"max_tokens": 2}, "max_tokens", None),
        ({"stop_sequences": ["= "]}, "stop_sequence", "= "),
        ({"stop_sequences": ["zzz"]}, "end_turn", None),
    ],
)
def test_reasons_for_the_end(client, fields, reason, stop):
    message = ask(client, **fields).json()
    assert (message["stop_reason"], message["stop_sequence"]) == (reason, stop)
    assert events_of(client, **fields)[-2]["delta"] == {
        "stop_reason": reason,
        "stop_sequence": stop,
    }


def test_no_tokens_only_warm_the_cache(client):
    system = "You are a patient teacher of arithmetic. " * 20
    block = [{"type": "text", "text": system, "cache_control": {"type": "ephemeral"}}]
    first = ask(client, system=block, max_tokens=0).json()
    assert first["content"] == []
    assert first["stop_reason"] == "max_tokens"
    assert first["usage"]["cache_creation_input_tokens"] > 50
    assert [event["type"] for event in events_of(client, system=block, max_tokens=0)] == [
        "message_start",
        "message_delta",
        "message_stop",
    ]
    again = ask(client, system=block).json()["usage"]
    assert again["cache_read_input_tokens"] > 50
    total = sum(again[name] for name in again if name.endswith("input_tokens"))
    assert total == sum(first["usage"][name] for name in again if name.endswith("input_tokens"))


def test_a_billing_header_that_changes_does_not_change_the_prompt(client):
    counts = set()
    for nonce in ("a1", "b2222222"):
        system = [
            {"type": "text", "text": f"x-anthropic-billing-header: cch={nonce};"},
            {"type": "text", "text": "Be kind."},
        ]
        body = {"model": "test", "messages": ADD, "system": system}
        counts.add(client.post(f"{PATH}/count_tokens", json=body).json()["input_tokens"])
    assert len(counts) == 1


def test_fields_without_effect_are_accepted_and_reported(client):
    answer = ask(
        client,
        metadata={"user_id": "somebody"},
        context_management={"edits": []},
        thinking={"type": "adaptive"},
        output_config={"effort": "high"},
        from_the_future=[1, {"a": 2}],
    )
    assert answer.status_code == 200
    assert answer.headers["x-wkv-ignored"] == "context_management, metadata, from_the_future"
    assert "wkv_ignored_fields_total" in client.get("/metrics").text
    assert client.post(f"{PATH}?beta=true", json={}).status_code == 400


USER, PART = "user", {"type": "text", "text": "Hi"}
WRONG = [
    ({"messages": []}, "messages"),
    ({"messages": "Hi"}, "messages"),
    ({"messages": [{"role": "bot", "content": "Hi"}]}, "messages.0.role"),
    ({"messages": [{"role": USER}]}, "messages.0.content"),
    ({"messages": [{"role": USER, "content": [PART, {"type": "image"}]}]}, "messages.0.content.1"),
    ({"messages": [{"role": USER, "content": [{"type": "text"}]}]}, "messages.0.content.0.text"),
    (
        {"messages": [{"role": USER, "content": [{"type": "tool_result"}]}]},
        "messages.0.content.0.tool_use_id",
    ),
    (
        {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "x"}]}]},
        "messages.0.content.0",
    ),
    ({"system": [{"type": "image"}]}, "system.0"),
    ({"system": 5}, "system"),
    ({"max_tokens": "many"}, "max_tokens"),
    ({"temperature": -1}, "temperature"),
    ({"top_p": 2}, "top_p"),
    ({"top_k": -1}, "top_k"),
    ({"stop_sequences": [""]}, "stop_sequences"),
    ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0"),
    ({"tools": [{**TOOL, "input_schema": {"type": "string"}}]}, "tools"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "other"}}, "tool_choice"),
    ({"tool_choice": {"type": "maybe"}}, "tool_choice"),
    ({"output_config": {"format": {"type": "xml"}}}, "output_config.format"),
    ({"mcp_servers": [{"name": "x"}]}, "mcp_servers"),
    ({"container": "x"}, "container"),
]


@pytest.mark.parametrize(("fields", "path"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_fields_are_named(client, fields, path):
    for answer in (ask(client, **fields), ask(client, **fields, stream=True)):
        assert answer.status_code == 400, answer.text
        body = answer.json()
        assert body["type"] == "error"
        assert body["error"]["type"] == "invalid_request_error"
        assert path in body["error"]["message"]


def test_tags_are_refused_in_the_words_that_agents_look_for(client):
    answer = ask(client, tools=[TOOL, {"type": "advisor_20260301", "name": "advisor"}])
    assert answer.json()["error"]["message"].startswith(
        "tools.1: Input tag 'advisor_20260301' found using 'type' does not match any of the "
        "expected tags"
    )


@pytest.mark.parametrize(
    ("send", "status", "kind"),
    [
        (lambda c: c.post(PATH, content=b"{"), 400, "invalid_request_error"),
        (lambda c: c.get(PATH), 405, "invalid_request_error"),
        (lambda c: c.post(f"{PATH}/batches", json={}), 404, "not_found_error"),
        (lambda c: c.post(PATH, content=bytes(2**25)), 413, "request_too_large"),
    ],
    ids=["json", "method", "path", "large"],
)
def test_all_errors_have_the_format_of_the_api(client, send, status, kind):
    answer = send(client)
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == kind
    assert answer.json()["request_id"].startswith("req_")


def test_a_stream_says_something_while_the_prompt_is_read(demo, serve, monkeypatch):
    monkeypatch.setattr(stream_reply, "PING_SECONDS", 0.05)
    slow(monkeypatch, demo, 0.4)
    with serve(demo) as (address, _), httpx.Client(base_url=address) as client:
        kinds = [event["type"] for event in events_of(client, max_tokens=1)]
        assert kinds[0] == "message_start"
        assert "ping" in kinds
        asked = [{"role": "user", "content": "What is 9 minus 2?"}]
        body = {"messages": asked, "max_tokens": 1, "stream": True}
        text = client.post("/v1/chat/completions", json=body).text
        assert text.startswith(": ")


# ---- conversion


def converted(thinks=True, **fields):
    body = MessagesRequest.model_validate(
        {"model": "test", "max_tokens": 5, "messages": ADD, **fields}
    )
    return chat_request(body, thinks=thinks)


def test_blocks_become_chat_messages():
    picture = {"type": "image", "source": {}}
    chat = converted(
        system=[PART, {"type": "text", "text": "there"}],
        messages=[
            {"role": "user", "content": [PART, PART]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": "x"},
                    {"type": "redacted_thinking", "data": "x"},
                    {"type": "text", "text": "Let me see."},
                    {"type": "tool_use", "id": "toolu_1", "name": "read", "input": {"n": "天"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "toolu_1", "content": [PART, picture]},
                    {"type": "tool_result", "tool_use_id": "toolu_2", "is_error": True},
                    {"type": "text", "text": "Go on."},
                ],
            },
            {"role": "system", "content": [PART]},
        ],
    )
    found = [(one.role, one.text) for one in chat.messages]
    assert found == [
        ("system", "Hi\n\nthere"),
        ("user", "Hi\nHi"),
        ("assistant", "Let me see."),
        ("tool", f"Hi\n{NO_IMAGE}"),
        ("tool", ""),
        ("user", "Go on."),
        ("system", "Hi"),
    ]
    assert chat.messages[2].reasoning == "Hm."
    assert chat.messages[2].tool_calls[0].function.arguments == '{"n": "天"}'


@pytest.mark.parametrize(
    ("fields", "effort"),
    [
        ({}, None),
        ({"thinking": {"type": "disabled"}}, "none"),
        ({"thinking": {"type": "adaptive"}}, None),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "low"),
        ({"thinking": {"type": "enabled", "budget_tokens": 50_000}}, "high"),
        ({"output_config": {"effort": "max"}}, "xhigh"),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "medium"}}, "medium"),
    ],
)
def test_thinking(fields, effort):
    assert converted(**fields).reasoning_effort == effort
    assert converted(thinks=False, **fields).reasoning_effort is None


def test_a_wrong_budget_is_named():
    with pytest.raises(ApiError, match=r"thinking\.budget_tokens"):
        converted(thinking={"type": "enabled", "budget_tokens": "all"})


def test_blocks_of_a_reply_follow_each_other():
    function = {"name": "f", "arguments": ""}
    deltas = [
        {"role": "assistant", "content": ""},
        {"reasoning": "Hm"},
        {"reasoning": "."},
        {"content": "Yes"},
        {"tool_calls": [{"index": 0, "id": "call_a", "type": "function", "function": function}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a": '}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]},
        {"tool_calls": [{"index": 1, "id": "call_b", "type": "function", "function": function}]},
    ]
    blocks = BlockEvents()
    events = [event for delta in deltas for event in blocks.push(delta)]
    events += blocks.finish()
    shown = [
        (event["type"].removeprefix("content_block_"), event["index"], *values(event))
        for event in events
    ]
    assert shown == [
        ("start", 0, "thinking"),
        ("delta", 0, "Hm"),
        ("delta", 0, "."),
        ("delta", 0, SIGNATURE),
        ("stop", 0),
        ("start", 1, "text"),
        ("delta", 1, "Yes"),
        ("stop", 1),
        ("start", 2, "tool_use"),
        ("delta", 2, '{"a": '),
        ("delta", 2, "1}"),
        ("stop", 2),
        ("start", 3, "tool_use"),
        ("stop", 3),
    ]


def values(event):
    if "content_block" in event:
        return [event["content_block"]["type"]]
    return [list(event["delta"].values())[1]] if "delta" in event else []


def test_a_call_that_was_cut_off_is_not_a_block():
    reply = ReplyParser("")
    reply.calls = [{"id": "call_a", "function": {"name": "f", "arguments": '{"a'}}]
    reply.is_cut, reply.finish_reason = True, "length"
    assert blocks_of(reply) == [{"type": "text", "text": ""}]
    assert stop_reason(reply, ()) == ("max_tokens", None)
