"""Bodies that nobody should send: each is told what is wrong, and none is an error of ours."""

import json
import time

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serve.wire import HELLO
from wkv.prompting.template import Message
from wkv.serve import read_body
from wkv.serve.protocol.errors import ApiError
from wkv.serve.render_prompt import ConversationStart

CHAT = "/v1/chat/completions"
GOOD = {
    CHAT: {"messages": HELLO, "max_tokens": 1},
    "/v1/completions": {"prompt": "Once", "max_tokens": 1},
    "/v1/embeddings": {"input": "Once"},
    "/tokenize": {"content": "Once"},
    "/detokenize": {"tokens": [65]},
    "/v1/states": {"prompt": "Once"},
}
BROKEN = {
    "nothing": b"",
    "half": b'{"messages": [',
    "two": b"{}{}",
    "bytes": b"\xff\xfe\x00",
    "latin": '{"user": "é"}'.encode("latin-1"),
    "utf16": '{"messages": []}'.encode("utf-16"),
    "bom": b'\xef\xbb\xbf{"messages": []}',
    "list": b"[]",
    "text": b'"text"',
    "null": b"null",
    "true": b"true",
    "number": b"1" * 4000,
    "huge number": b"1" * 10_000,
    "nan": b"NaN",
    "infinity": b"-Infinity",
    "deep list": b"[" * 100_000,
    "deep whole": b"[" * 3000 + b"]" * 3000,
    "deep object": b'{"a":' * 50_000,
    "comment": b'/* */ {"messages": []}',
    "single": b"{'messages': []}",
    "surrogate key": b'{"\\ud800": 1}',
    "zero": b"\0" * 100,
}
NUMBERS = ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" * 400, '"1"', "true", "[]", "{}"]
HUGE = {
    "n": [0, -1, 129, 10**9, 2**64, 1.5],
    "max_tokens": [-2, 10**7, 10**30, 0.5],
    "seed": [2**63, -2, -(2**63), 10**30, 0.1],
    "temperature": [-0.1, 11, 1e300],
    "top_p": [-0.1, 1.1],
    "top_k": [-2, 2**21, 2**70],
    "presence_penalty": [11, -11, 1e300],
    "frequency_penalty": [11, -11],
    "penalty_decay": [-0.1, 1.1],
    "stop": ["", ["x"] * 17, "x" * 257, [""], [1], {"a": 1}],
    "logit_bias": [
        {str(i): 1 for i in range(2000)},
        {"1": 101},
        {"-1": 1},
        {"65536": 1},
        {"1.5": 1},
        {"": 1},
        {"x" * 10_000: 1},
        {"9" * 5000: 1},
        [1],
    ],
    "model": [1, ["test"]],
    "stream": ["yes", 1],
    "stream_options": [True, {"include_usage": True}, {"include_usage": "yes"}, {"x": 1}],
    "user": [1, ["x"]],
    "state": ["x" * 101, 1],
}


@pytest.fixture(scope="module")
def client(served):
    """Give one client for all: each would read the certificates of the world anew."""
    with httpx.Client(base_url=served[0], timeout=30) as one:
        yield one


def refused(answer, statuses=(400, 404, 413)):
    assert answer.status_code in statuses, answer.text[:500]
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert error["type"] in ("invalid_request_error", "not_found_error")
    return error


@pytest.mark.parametrize("path", GOOD)
def test_good_bodies_are_taken(client, path):
    assert client.post(path, json=GOOD[path]).status_code in (200, 201)


@pytest.mark.parametrize("path", GOOD)
@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_object_of_json_is_told(client, path, name):
    headers = {"Content-Type": "application/json"}
    refused(client.post(path, content=BROKEN[name], headers=headers))


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("field", ["temperature", "top_p", "presence_penalty", "n", "seed"])
def test_numbers_that_are_none_are_told(client, field, number):
    data = f'{{"messages": [{{"role": "user", "content": "x"}}], "{field}": {number}}}'
    answer = client.post(CHAT, content=data, headers={"Content-Type": "application/json"})
    error = refused(answer)
    if number in ('"1"', "true", "[]", "{}"):
        assert error["param"] == field


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
@pytest.mark.parametrize(("field", "value"), [(f, v) for f, vs in HUGE.items() for v in vs])
def test_values_beyond_bounds_are_told_by_their_name(client, path, field, value):
    error = refused(client.post(path, json=GOOD[path] | {field: value}))
    assert field in f"{error['param']} {error['message']}"
    assert len(error["message"]) < 1000


@pytest.mark.parametrize("path", GOOD)
def test_a_field_that_is_unknown_is_told_by_its_name(client, path):
    error = refused(client.post(path, json=GOOD[path] | {"frobnicate": 1}))
    assert error["param"] == "frobnicate"
    assert error["code"] == "unknown_field"


def test_a_field_with_a_long_name_is_told_in_short(client):
    error = refused(client.post(CHAT, json=GOOD[CHAT] | {"x" * 100_000: 1}))
    assert len(json.dumps(error)) < 2000


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": []},
        {"prompt": [[]]},
        {"prompt": ["a", [1]]},
        {"prompt": [1.5]},
        {"prompt": [-1]},
        {"prompt": [2**31]},
        {"prompt": [65535]},
        {"prompt": ["a"] * 129},
        {"prompt": ""},
        {"prompt": ["a", ""]},
        {"prompt": "a", "best_of": 2},
        {"prompt": "a", "suffix": "x"},
        {"prompt": ["a"] * 128, "n": 128},
        {"prompt": "a" * 2**18, "n": 128, "echo": True},
        {"prompt": "a", "logprobs": 21},
    ],
)
def test_prompts_that_cannot_be_read_are_told(client, body):
    refused(client.post("/v1/completions", json=body | {"max_tokens": 1}))


@pytest.mark.parametrize(
    "given_input",
    [[], "", [""], [[]], [-1], [65535], [2**40], ["a"] * 2049, {"a": 1}, None, [None]],
)
def test_inputs_that_cannot_be_embedded_are_told(client, given_input):
    refused(client.post("/v1/embeddings", json={"input": given_input}))


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"role": "user", "content": 1},
        {"role": "user", "content": [{"type": "text"}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]},
        {"role": "user", "content": [{"type": "text", "text": "x", "x": 1}]},
        {"role": "user", "content": "x", "audio": {}},
        {"role": "USER", "content": "x"},
        {"role": None, "content": "x"},
        "text",
        None,
    ],
)
def test_messages_that_cannot_be_read_are_told(client, message):
    error = refused(client.post(CHAT, json={"messages": [message]}))
    assert "messages" in f"{error['param']} {error['message']}"


def exact(client, path, body, message):
    error = refused(client.post(path, json=GOOD[path] | body))
    assert error["message"] == message
    assert error["param"] == message.split()[0]


def test_the_length_of_a_list_is_reported_as_it_is(client):
    exact(
        client,
        "/v1/completions",
        {"prompt": ["a"] * 129},
        "prompt has 129 entries, at most 128",
    )
    exact(
        client,
        "/v1/embeddings",
        {"input": [[1]] * 2049},
        "input has 2049 entries, at most 2048",
    )
    exact(client, CHAT, {"stop": ["a"] * 17}, "stop has 17 entries, at most 16")
    error = refused(client.post(CHAT, json=GOOD[CHAT] | {"logit_bias": {"12x": 1}}))
    assert "'12x'" in error["message"]
    assert client.post("/v1/embeddings", json={"input": ["a"] * 300}).status_code == 200


def test_a_body_with_too_many_values_is_refused_before_they_are_validated(client):
    part = {"type": "text", "text": ""}
    messages = [{"role": "user", "content": [part] * 59}] * 1000
    for body in (
        {"messages": messages},
        {"messages": HELLO, "metadata": {str(number): 1 for number in range(5000)}},
        {"messages": HELLO, "metadata": {"a": "x" * 20_000}},
    ):
        error = refused(client.post(CHAT, json=body))
        assert "at most" in error["message"] or "more than" in error["message"]


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/embeddings", "/v1/responses"])
def test_numbers_that_json_lacks_are_refused_everywhere(client, path, number):
    body = json.dumps(GOOD.get(path, {"input": "x"}))[:-1]
    for field in (f'"metadata": {{"a": {number}}}', f'"tools": [{{"x": [{number}]}}]'):
        for stream in ("true", "false"):
            data = f'{body}, {field}, "stream": {stream}}}'
            answer = client.post(path, content=data, headers={"Content-Type": "application/json"})
            assert number in refused(answer)["message"]


def test_messages_without_text_are_taken(client):
    talk = [{"role": "user", "content": ""}, {"role": "assistant", "content": "Hi"}]
    assert client.post(CHAT, json=GOOD[CHAT] | {"messages": talk[:1]}).status_code == 200
    assert client.post(CHAT, json=GOOD[CHAT] | {"messages": [*talk, *HELLO]}).status_code == 200


def test_many_messages_are_told(client):
    refused(client.post(CHAT, json={"messages": HELLO * 10_001}))


@pytest.mark.parametrize(("method", "path"), [("GET", CHAT), ("PUT", CHAT), ("POST", "/v1/models")])
def test_other_methods_are_told(client, method, path):
    answer = client.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"]
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/nothing", "/v2/models", "/redoc", "/%00"])
def test_other_paths_are_told(client, path):
    refused(client.get(path), (404,))


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
FIELDS = [*HUGE, "messages", "top_logprobs", "logprobs", "reasoning_effort", "metadata"]


@given(
    fields=st.dictionaries(st.sampled_from(FIELDS), ANYTHING, max_size=3),
    path=st.sampled_from([*GOOD]),
)
def test_nothing_in_a_field_is_an_error_of_the_server(client, fields, path):
    answer = client.post(path, json=GOOD[path] | fields | {"max_tokens": 1})
    assert answer.status_code in (200, 201, 400, 404, 422), answer.text[:300]
    if answer.status_code >= 400:
        refused(answer)


def test_a_long_history_is_understood_in_time_that_grows_with_it(served):
    """Not with its square: a body of 16 MB would keep a thread for hours."""
    renderer = served[1].renderer
    said = "There was once a man who had a dog. " * 8
    messages = [
        Message(role, f"{number} {said}")
        for number in range(1000)
        for role in ("user", "assistant")
    ]
    begun = time.monotonic()
    prompt = renderer.render_prompt([*messages, Message("user", "Hello")], ConversationStart())
    assert len(prompt.ids) > 100_000
    assert time.monotonic() - begun < 5  # some 0.5 s


UNIONS = [
    ("/v1/completions", "prompt", {"a": 1}, "a string, a list of strings, token ids"),
    ("/v1/completions", "prompt", 5, "a string, a list of strings, token ids"),
    ("/v1/completions", "stop", 5, "a string or a list of strings"),
    ("/v1/embeddings", "input", True, "a string, a list of strings, token ids"),
    ("/v1/responses", "input", 5, "a string or a list of items"),
    (CHAT, "tool_choice", 5, "'none', 'auto', 'required', or an object"),
    (CHAT, "messages", [{"role": "user", "content": 5}], "a string or a list of text parts"),
]


@pytest.mark.parametrize(("path", "field", "value", "expected"), UNIONS)
def test_a_value_of_no_type_of_a_field_is_told_all_of_them(client, path, field, value, expected):
    error = client.post(path, json=GOOD.get(path, {}) | {field: value}).json()["error"]
    assert f"expected {expected}" in error["message"]
    assert error["param"].startswith(field)


EMPTY_PROMPTS = [
    ("/v1/completions", "prompt", "", "prompt"),
    ("/v1/completions", "prompt", ["a", ""], "prompt.1"),
    ("/v1/completions", "prompt", [], "prompt"),
    ("/v1/embeddings", "input", "", "input"),
    ("/v1/embeddings", "input", ["a", "b", ""], "input.2"),
    ("/v1/embeddings", "input", [[1], [10**6]], "input.1"),
]


@pytest.mark.parametrize(("path", "field", "value", "param"), EMPTY_PROMPTS)
def test_an_empty_prompt_is_told_with_its_index(client, path, field, value, param):
    error = client.post(path, json={field: value}).json()["error"]
    assert error["param"] == param
    assert error["message"].startswith(param)


OWN_FIELDS = [
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"tool_choice": {"type": "function", "name": "b"}}, "tool_choice"),
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
    (
        {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "odd"}}}},
        "text.format.schema",
    ),
    ({"text": {"format": "json"}}, "text.format"),
    ({"text": {"fromat": {}}}, "text.fromat"),
    ({"text": {"verbosity": "loud"}}, "text.verbosity"),
    ({"reasoning": {"efort": "low"}}, "reasoning.efort"),
]


@pytest.mark.parametrize(("fields", "param"), OWN_FIELDS)
def test_errors_of_responses_name_its_own_fields(client, fields, param):
    error = client.post("/v1/responses", json={"input": "Hi", **fields}).json()["error"]
    assert error["param"] == param
    for name in ("response_format", "json_schema.", '"function": {', "'function': {"):
        assert name not in error["message"]


def test_top_logprobs_need_logprobs(client):
    error = client.post(CHAT, json=GOOD[CHAT] | {"top_logprobs": 3}).json()["error"]
    assert (error["param"], "logprobs to true" in error["message"]) == ("top_logprobs", True)


def test_the_newer_name_of_the_token_limit_comes_first(client):
    fields = {"max_tokens": 5, "max_completion_tokens": 2}
    usage = client.post(CHAT, json=GOOD[CHAT] | fields).json()["usage"]
    assert usage["completion_tokens"] == 2


def test_a_million_members_are_refused_before_they_are_parsed(monkeypatch):
    body = json.dumps({"metadata": dict.fromkeys(map(str, range(10**6)), 1)}).encode()
    monkeypatch.setattr(read_body.json, "loads", None)
    with pytest.raises(ApiError, match="contains 1000001 strings, at most"):
        read_body.parse_json(body)


def test_the_largest_number_of_parts_is_parsed():
    part = {"type": "text", "text": "\\"}
    messages = [{"role": "user", "content": [part] * 4}] * 9_990
    assert read_body.parse_json(json.dumps({"messages": messages}).encode())
