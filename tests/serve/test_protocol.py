"""The bodies of all routes are those of the declared models, without any other field."""

import json

import pytest

from tests.serve.wire import HELLO
from wkv.serve.protocol import response_objects, responses

CHAT = "/v1/chat/completions"
FUNCTION = {"name": "f", "parameters": {"type": "object", "properties": {"x": {"const": 1}}}}
TOOLS = {"tools": [{"type": "function", "function": FUNCTION}], "tool_choice": "required"}
DETAILS = {"logprobs": True, "top_logprobs": 2, "max_tokens": 4, "n": 2}
USAGE = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}


def check(model, body):
    """Validate a body, and that nothing is lost on the way."""
    parsed = model.model_validate(body, strict=True)
    assert json.loads(parsed.model_dump_json(exclude_unset=True)) == body


def events(client, path, body):
    with client.stream("POST", path, json=body | {"stream": True}) as answer:
        assert answer.status_code == 200, answer.read()
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if "data: " in line]
    return [json.loads(line) for line in lines if line != "[DONE]"]


@pytest.mark.parametrize(
    ("path", "body", "model"),
    [
        (CHAT, {"messages": HELLO}, responses.ChatCompletion),
        (CHAT, {"messages": HELLO} | DETAILS, responses.ChatCompletion),
        (CHAT, {"messages": HELLO} | TOOLS, responses.ChatCompletion),
        ("/v1/completions", {"prompt": "x", "max_tokens": 4}, responses.TextCompletion),
        (
            "/v1/completions",
            {"prompt": ["x", "y"], "max_tokens": 4, "logprobs": 2},
            responses.TextCompletion,
        ),
        ("/v1/embeddings", {"input": ["x", "y"]}, responses.EmbeddingList),
        ("/v1/embeddings", {"input": "x", "encoding_format": "base64"}, responses.EmbeddingList),
        ("/v1/responses", {"input": "Hello"}, response_objects.ResponseObject),
        (
            "/v1/responses",
            {"input": "Hello", "tools": [{"type": "function"} | FUNCTION]}
            | {"tool_choice": "required"},
            response_objects.ResponseObject,
        ),
        (
            "/v1/responses",
            {"input": "Hello", "max_output_tokens": 2},
            response_objects.ResponseObject,
        ),
        ("/tokenize", {"content": "x"}, responses.Tokens),
        ("/detokenize", {"tokens": [65]}, responses.DetokenizedText),
        ("/v1/states", {"prompt": "x"}, responses.SavedState),
        (CHAT, {"messages": []}, responses.ErrorResponse),
        ("/v1/nothing", {}, responses.ErrorResponse),
    ],
)
def test_a_body_is_that_of_its_model(client, path, body, model):
    answer = client.post(path, json=body)
    check(model, answer.json())
    assert (answer.status_code >= 400) == (model is responses.ErrorResponse)


def test_what_is_stored_is_that_of_its_model(client):
    state = client.post("/v1/states", json={"prompt": "x"}).json()["id"]
    response = client.post("/v1/responses", json={"input": "Hello"}).json()["id"]
    for path, model in (
        ("/v1/models", responses.ModelList),
        ("/v1/models/test", responses.ServedModel),
        ("/health", responses.Health),
        ("/v1/states", responses.StateList),
        (f"/v1/states/{state}", responses.SavedState),
        (f"/v1/responses/{response}", response_objects.ResponseObject),
    ):
        check(model, client.get(path).json())
    for path in (f"/v1/states/{state}", f"/v1/responses/{response}"):
        check(responses.Deleted, client.delete(path).json())


@pytest.mark.parametrize(
    ("path", "body", "model"),
    [
        (CHAT, {"messages": HELLO} | DETAILS | USAGE, responses.ChatCompletionChunk),
        (CHAT, {"messages": HELLO, "max_tokens": 99} | TOOLS, responses.ChatCompletionChunk),
        ("/v1/completions", {"prompt": "x", "logprobs": 2} | USAGE, responses.TextCompletion),
    ],
)
def test_a_chunk_is_that_of_its_model(client, path, body, model):
    chunks = events(client, path, {"max_tokens": 20} | body)
    assert len(chunks) > 3
    for chunk in chunks:
        check(model, chunk)


@pytest.mark.parametrize("forced", [True, False])
def test_an_event_is_that_of_its_model(client, forced):
    body = {"input": "Hello"}
    if forced:
        body |= {"tools": [{"type": "function"} | FUNCTION], "tool_choice": "required"}
    found = events(client, "/v1/responses", body)
    models = {
        kind: model
        for model in response_objects.RESPONSE_EVENTS
        for kind in model.model_fields["type"].annotation.__args__
    }
    for event in found:
        check(models[event["type"]], event)
    kind = "function_call_arguments" if forced else "output_text"
    assert f"response.{kind}.delta" in {event["type"] for event in found}


def test_events_with_reasoning_are_those_of_their_models():
    from wkv.batching import TextEvent
    from wkv.serve.parse_reply import ReplyParser
    from wkv.serve.response_items import ItemEvents
    from wkv.serve.response_tools import OfferedTools

    reply = ReplyParser(" <think")
    items = ItemEvents(reply, "resp_1", OfferedTools())
    found = [
        event
        for text in ("> Hm </think>", " Yes.")
        for delta in reply.push(TextEvent(0, text, 1))
        for event in items.push(delta)
    ]
    reply.finish("stop")
    found += items.finish("completed")
    models = {
        kind: model
        for model in response_objects.RESPONSE_EVENTS
        for kind in model.model_fields["type"].annotation.__args__
    }
    assert "response.reasoning_text.done" in {event["type"] for event in found}
    for number, event in enumerate(found):
        check(models[event["type"]], event | {"sequence_number": number})
    check(responses.ReplyMessage, reply.body)


MESSAGE = {"role": "user", "content": "Hello"}
CALL = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "1", "output": "x"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"reasoning": {"effort": "endless"}}, "reasoning.effort"),
        ({"text": {"format": {"type": "yaml"}}}, "text.format.type"),
        ({"text": {"format": "yaml"}}, "text.format"),
        ({"text": {"format": {"type": "json_schema", "shema": {}}}}, "text.format.shema"),
        (
            {"text": {"format": {"type": "json_schema", "name": "x" * 65, "schema": {}}}},
            "text.format.name",
        ),
        (
            {"text": {"format": {"type": "json_object"}}, "tool_choice": "required"}
            | {"tools": [{"type": "function", "name": "f"}]},
            "text.format",
        ),
        ({"max_output_tokens": -2}, "max_output_tokens"),
        ({"input": [MESSAGE, {"role": "robot", "content": "x"}]}, "input.1.role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0.content.0"),
        ({"input": [MESSAGE, CALL | {"name": 3}]}, "input.1.name"),
        ({"input": [MESSAGE, CALL, CALL | {"arguments": {}}]}, "input.2.arguments"),
        ({"input": [MESSAGE, CALL | {"call_id": 3}]}, "input.1.call_id"),
        ({"input": [MESSAGE, CALL, OUTPUT | {"output": 3}]}, "input.2.output"),
        ({"input": [CALL, OUTPUT | {"call_id": 3}]}, "input.1.call_id"),
        ({"input": [{"type": "image"}]}, "input.0.type"),
    ],
)
@pytest.mark.parametrize("instructions", [None, "Be kind."])
def test_errors_name_the_fields_of_the_responses_api(client, fields, param, instructions):
    body = {"input": "Hello", "instructions": instructions} | fields
    answer = client.post("/v1/responses", json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"].startswith(param), error
    names = ("messages", "response_format", "reasoning_effort", "max_completion_tokens")
    assert not [name for name in names if name in error["message"]]
    if "items of the type" not in error["message"]:
        assert param in error["message"]


def test_errors_of_chat_name_the_fields_of_chat(client):
    for fields, param in (
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"response_format": {"type": "json_object"}} | TOOLS, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
    ):
        answer = client.post(CHAT, json={"messages": HELLO} | fields)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == param
        assert param in answer.json()["error"]["message"]
