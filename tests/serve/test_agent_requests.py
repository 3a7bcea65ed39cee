"""`/v1/responses` as coding agents call it: their tools, their items, and what they always send."""

import json

import httpx
import openai
import pytest

from wkv.serve.response_tools import OfferedTools, call_of

PATH = "/v1/responses"
PATCH_TOOL = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edit files",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"},
}
SHELL = {
    "type": "function",
    "name": "exec_command",
    "description": "Run a command",
    "strict": False,
    "parameters": {
        "type": "object",
        "properties": {"cmd": {"type": "string"}},
        "required": ["cmd"],
    },
}
NAMESPACE = {
    "type": "namespace",
    "name": "files",
    "description": "x",
    "tools": [{**SHELL, "name": "read"}],
}
AGENT = {
    "model": "test",
    "instructions": "You are a coding agent.",
    "input": [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "List."}]},
    ],
    "tools": [SHELL, PATCH_TOOL, NAMESPACE, {"type": "web_search"}, {"type": "local_shell"}],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "reasoning": {"effort": "medium", "summary": "auto"},
    "store": False,
    "stream": True,
    "include": ["reasoning.encrypted_content"],
    "service_tier": "auto",
    "prompt_cache_key": "thread-1",
    "text": {"verbosity": "low"},
    "client_metadata": {"originator": "codex"},
    "max_tool_calls": 5,
    "max_output_tokens": 30,
}
"""The request of a coding agent, rebuilt from its description."""


def test_the_request_of_an_agent_is_answered(client):
    answer = client.post(PATH, json=AGENT)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-wkv-ignored"] == (
        "service_tier, prompt_cache_key, client_metadata, max_tool_calls, web_search, local_shell"
    )
    names = [line[7:] for line in answer.text.splitlines() if line.startswith("event: ")]
    assert names[0] == "response.created"
    assert names[-1] in ("response.completed", "response.incomplete")
    whole = client.post(PATH, json={**AGENT, "stream": False}).json()
    assert whole["output"]


def test_a_whole_turn_of_calls_of_all_kinds_is_read(client):
    items = [
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": None},
        {"type": "custom_tool_call", "call_id": "c1", "name": "apply_patch", "input": "*** x"},
        {"type": "function_call", "call_id": "c2", "name": "exec_command", "arguments": "{}"},
        {"type": "function_call", "call_id": "c3", "namespace": "files", "name": "read",
         "arguments": "{}"},
        {"type": "local_shell_call", "call_id": "c4", "action": {"command": ["ls"]}},
        {"type": "custom_tool_call_output", "call_id": "c1", "output": "done"},
        {"type": "function_call_output", "call_id": "c2", "output": [
            {"type": "input_text", "text": "a.txt"}, {"type": "input_image", "image_url": "x"}]},
        {"type": "function_call_output", "call_id": "c3", "output": "text"},
        {"type": "local_shell_call_output", "call_id": "c4", "output": "ok"},
        {"type": "item_reference", "id": "rs_1"},
        {"type": "additional_tools", "tools": [{**SHELL, "name": "later"}]},
        {"type": "message", "role": "developer", "content": "Go on."},
        {"type": "message", "role": "user", "content": "So?"},
    ]  # fmt: skip
    body = {**AGENT, "input": [*AGENT["input"], *items], "stream": False}
    answer = client.post(PATH, json=body)
    assert answer.status_code == 200, answer.text
    counted = client.post(f"{PATH}/input_tokens", json=body).json()
    assert counted == {
        "object": "response.input_tokens",
        "input_tokens": answer.json()["usage"]["input_tokens"],
    }


@pytest.mark.parametrize("streamed", [False, True])
def test_a_custom_tool_is_called_with_a_text(client, streamed):
    body = {
        **AGENT,
        "tool_choice": {"type": "custom", "name": "apply_patch"},
        "max_output_tokens": 60,
    }
    if not streamed:
        (item,) = client.post(PATH, json={**body, "stream": False}).json()["output"]
    else:
        lines = client.post(PATH, json=body).text.splitlines()
        events = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
        (item,) = [e["item"] for e in events if e["type"] == "response.output_item.done"]
        deltas = [e for e in events if e["type"] == "response.custom_tool_call_input.delta"]
        assert "".join(event["delta"] for event in deltas) == item["input"]
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert (item["type"], item["name"]) == ("custom_tool_call", "apply_patch")
    assert isinstance(item["input"], str)


def test_the_official_client_uses_a_namespace(served):
    with openai.OpenAI(base_url=f"{served[0]}/v1", api_key="none", max_retries=0) as sdk:
        response = sdk.responses.create(
            model="test",
            input="Read it.",
            tools=[NAMESPACE],
            tool_choice={"type": "function", "name": "files__read"},
            max_output_tokens=60,
        )
        (call,) = response.output
        assert (call.type, call.name, call.namespace) == ("function_call", "read", "files")
        count = sdk.responses.input_tokens.count(model="test", input="Read it.")
        assert count.input_tokens > 3


def test_a_probe_with_nothing(client):
    for empty in ([], ""):
        answer = client.post(PATH, json={"model": "test", "input": empty, "max_output_tokens": 1})
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": [{"type": "compaction", "encrypted_content": "x"}]}, "input.0.type"),
        ({"input": [{"type": "image_generation_call"}]}, "input.0.type"),
        ({"tools": [{"type": "namespace", "name": "x"}]}, "tools"),
        ({"tools": [{**NAMESPACE, "tools": [{**SHELL, "name": "a b"}]}]}, "tools"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"background": True}, "background"),
    ],
)
def test_demands_are_refused_by_name(client, fields, param):
    answer = client.post(PATH, json={**AGENT, "stream": False, **fields})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


NO_EFFECT = {
    "user": "me",
    "metadata": {"a": "b"},
    "service_tier": "flex",
    "safety_identifier": "x",
    "prompt_cache_key": "x",
    "prompt_cache_options": {"mode": "implicit"},
    "prompt_cache_retention": "24h",
    "verbosity": "low",
    "modalities": ["text"],
    "num_ctx": 4096,
    "keep_alive": "5m",
}
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
BODIES = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"prompt": "Hi", "max_tokens": 1},
    PATH: {"input": "Hi", "max_output_tokens": 1},
    "/v1/messages": {**CHAT, "model": "test"},
}


@pytest.mark.parametrize("path", BODIES)
def test_fields_without_effect_are_reported(client, path):
    extra = {name: NO_EFFECT[name] for name in NO_EFFECT if path != "/v1/messages"}
    extra = extra or {"metadata": {}, "service_tier": "auto"}
    for streamed in (False, True):
        answer = client.post(path, json={**BODIES[path], **extra, "stream": streamed})
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-wkv-ignored"] == ", ".join(extra)
    assert "x-wkv-ignored" not in client.post(path, json=BODIES[path]).headers


def test_a_strict_server_refuses_them(demo, serve):
    with serve(demo, strict=True) as (address, _), httpx.Client(base_url=address) as client:
        for path, body in BODIES.items():
            assert client.post(path, json=body).status_code == 200
            answer = client.post(path, json={**body, "service_tier": "auto"})
            assert answer.status_code == 400
            assert "'service_tier' has no effect" in answer.text


@pytest.mark.parametrize(
    "fields",
    [
        {"modalities": ["audio"]},
        {"audio": {"voice": "x"}},
        {"web_search_options": {}},
        {"functions": []},
        {"keep_alive": []},
        {"verbosity": "loud"},
    ],
)
def test_demands_of_chat_are_refused_by_name(client, fields):
    answer = client.post("/v1/chat/completions", json={**CHAT, **fields})
    assert answer.status_code == 400
    (name,) = fields
    assert name in answer.json()["error"]["message"]


def test_tools_and_calls_by_the_names_of_their_functions():
    tools = OfferedTools()
    tools.add(AGENT["tools"], ("tools",))
    names = [function["function"]["name"] for function in tools.functions]
    assert names == ["exec_command", "apply_patch", "files__read"]
    assert tools.paths == [("tools", 0), ("tools", 1), ("tools", 2, "tools", 0)]
    assert tools.left_out == ["web_search", "local_shell"]
    for name, sent in (("apply_patch", "*** Begin"), ("exec_command", None), ("files__read", None)):
        arguments = json.dumps({"input": sent} if sent else {"cmd": "ls"})
        call = {"id": "call_1", "function": {"name": name, "arguments": arguments}}
        item = tools.item(call, "completed")
        assert call_of(item)["function"] == call["function"]
    cut = {"id": "call_1", "function": {"name": "apply_patch", "arguments": '{"input": "**'}}
    assert tools.item(cut, "incomplete")["input"] == '{"input": "**'
