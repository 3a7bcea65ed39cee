"""The server's own OpenAPI document: what it tells is so."""

import pytest

from tests.serve.clients import with_schemathesis as script
from tests.serve.wire import HELLO


@pytest.fixture(scope="module")
def document(served):
    import httpx

    answer = httpx.get(f"{served[0]}/openapi.json")
    assert answer.status_code == 200
    return answer.json()


def resolved(document, schema):
    """The schema that a reference names."""
    return document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]


def references(part):
    """All references in a part of the document."""
    if isinstance(part, dict):
        yield from (value for key, value in part.items() if key == "$ref")
        part = list(part.values())
    for one in part if isinstance(part, list) else ():
        yield from references(one)


def test_each_reference_leads_somewhere(document):
    names = {reference.rpartition("/")[2] for reference in references(document)}
    assert names <= set(document["components"]["schemas"])
    assert {"ChatCompletionChunk", "TextCompletion", "StatusEvent", "ErrorResponse"} <= names


def test_each_json_response_has_a_model(document):
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            [status] = [one for one in operation["responses"] if one.startswith("2")]
            content = operation["responses"][status]["content"]
            if "application/json" in content:
                schema = resolved(document, content["application/json"]["schema"])
                assert schema["additionalProperties"] is False, (method, path)
            else:
                assert path in ("/metrics", "/v1/states/{name}/content")


def test_each_operation_has_a_summary_and_the_form_of_errors(document):
    assert document["info"]["title"] == "wkv"
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["description"], (method, path)
            for status in ("400", "401", "404", "413", "429", "500", "503"):
                content = operation["responses"][status]["content"]["application/json"]
                schema = resolved(document, content["schema"])
                assert schema["required"] == ["error"]
                details = resolved(document, schema["properties"]["error"])
                assert details["required"] == ["message", "type", "param", "code"]


def test_all_that_is_told_exists(document, client):
    for path, operations in document["paths"].items():
        for method in operations:
            told = path.replace("{name}", "nothing")
            answer = client.request(method, told, json={} if method == "post" else None)
            assert answer.status_code not in (405, 500), (method, path)


def test_a_wrong_method_is_told_all_that_are_right(document, client):
    for path, operations in document["paths"].items():
        answer = client.put(path.replace("{name}", "nothing"))
        assert answer.status_code == 405
        allowed = {method.strip().lower() for method in answer.headers["allow"].split(",")}
        assert allowed >= set(operations), path  # "upload" could also be a state's name


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("get", "/health", None),
        ("get", "/metrics", None),
        ("get", "/v1/models", None),
        ("get", "/v1/states", None),
        ("post", "/v1/chat/completions", {"messages": HELLO, "max_tokens": 1}),
        ("post", "/v1/chat/completions", {"messages": HELLO, "max_tokens": 1, "stream": True}),
        ("post", "/v1/completions", {"prompt": "x", "max_tokens": 1}),
        ("post", "/v1/embeddings", {"input": "x"}),
        ("post", "/v1/states", {"prompt": "x"}),
        ("post", "/tokenize", {"content": "x"}),
        ("post", "/detokenize", {"tokens": [65]}),
    ],
)
def test_answers_have_the_status_and_kind_that_are_told(document, client, method, path, body):
    answer = client.request(method, path, json=body)
    told = document["paths"][path][method]["responses"]
    assert str(answer.status_code) in told
    kind = answer.headers["content-type"].split(";")[0]
    assert kind in told[str(answer.status_code)]["content"]


def test_schemathesis_finds_nothing(serve, demo):
    pytest.importorskip("schemathesis")
    with serve(demo, max_tokens=4) as (address, _):
        script.main(address, examples=10)
