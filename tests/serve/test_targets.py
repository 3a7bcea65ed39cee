"""Requests in other spellings: paths, HEAD, gzip, keys, and browsers on other websites."""

import gzip
import json
import zlib

import httpx
import pytest

from tests.serve.wire import HELLO, Caller

CHAT = {"messages": HELLO, "max_tokens": 2}
JSON = {"Content-Type": "application/json"}
ORIGIN = {"Origin": "https://example.org"}


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/models/", "//v1/models", "/v1//models//", "/models", "/models/"]
)
def test_models_are_listed_under_every_spelling(client, path):
    answer = client.get(str(client.base_url).rstrip("/") + path)
    assert answer.json() == client.get("/v1/models").json()
    assert answer.json()["object"] == "list"


@pytest.mark.parametrize("path", ["/v1/v1/models", "/v1/v1/v1/models/", "v1//v1/models"])
def test_an_address_with_v1_works_for_clients_that_add_it(client, path):
    assert client.get(path).json() == client.get("/v1/models").json()


@pytest.mark.parametrize("path", ["health", "docs", "metrics", "openapi.json"])
def test_other_paths_are_found_below_v1(client, path):
    assert client.get(f"/v1/{path}").status_code == 200
    assert client.get(f"/v1/nothing/{path}").status_code == 404


def test_a_path_that_is_missing_is_named_with_advice(client):
    message = client.get("/v1/model").json()["error"]["message"]
    assert message == "there is no path '/v1/model'; GET /docs lists all paths"


def test_gzip_may_have_several_members(client):
    data = json.dumps(CHAT).encode()
    assert post(client, gzip.compress(data[:9]) + gzip.compress(data[9:])).status_code == 200


@pytest.mark.parametrize(
    "path", ["/chat/completions", "/v1/chat/completions/", "//chat//completions"]
)
def test_chat_is_found_under_every_spelling(client, path):
    address = str(client.base_url).rstrip("/") + path
    assert client.post(address, json=CHAT).json()["object"] == "chat.completion"


@pytest.mark.parametrize("path", ["/completions", "/embeddings", "/responses", "/states"])
def test_paths_are_found_without_v1(client, path):
    assert client.post(path, json={}).status_code == 400


@pytest.mark.parametrize(
    "path",
    ["/", "/health", "/metrics", "/v1/models", "/v1/states", "/page/main.js", "/openapi.json"],
)
def test_head_is_get_without_a_body(client, path):
    get, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert "HEAD" in client.put(path).headers["allow"]


def test_head_where_there_is_no_get(client):
    assert client.head("/v1/chat/completions").status_code == 405


def test_the_absolute_form_is_understood(served):
    for path in ("/v1/models", "/health", "/models?x=1"):
        with Caller(served[0]) as caller:
            caller.send(f"http://localhost{path}", b"", "GET", **{"Content-Length": "0"})
            assert b" 200 OK" in caller.read_until(b"\r\n\r\n")


def test_the_host_of_the_absolute_form_counts(demo, serve):
    with serve(demo, hosts=("localhost",)) as (address, _):
        for host, status in (("localhost", b" 200 "), ("evil.example", b" 400 ")):
            with Caller(address) as caller:
                caller.send(f"http://{host}/v1/models", b"", "GET", **{"Content-Length": "0"})
                assert status in caller.read_until(b"\r\n\r\n")


def post(client, data, coding="gzip", path="/v1/chat/completions"):
    return client.post(path, content=data, headers={**JSON, "Content-Encoding": coding})


def test_gzip_bodies_are_read(client):
    data = json.dumps(CHAT | {"user": "x" * 200_000}).encode()
    assert post(client, gzip.compress(data)).status_code == 200
    assert post(client, data, "identity").status_code == 200


@pytest.mark.parametrize("coding", ["br", "deflate", "zstd", "gzip, gzip", "x" * 100])
def test_other_encodings_are_refused_by_name(client, coding):
    answer = post(client, b"x", coding)
    assert answer.status_code == 415
    assert coding[:30] in answer.json()["error"]["message"]


GZIPPED = gzip.compress(json.dumps(CHAT).encode(), mtime=0)  # test names contain it


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        GZIPPED[:-1],
        GZIPPED + b"x",
        GZIPPED * 2 + b"{}",
        GZIPPED[:-8] + bytes(8),
        zlib.compress(b"{}"),
    ],
)
def test_broken_gzip_is_reported(client, data):
    answer = post(client, data)
    assert answer.status_code == 400
    assert "gzip" in answer.json()["error"]["message"]


def test_the_limit_counts_what_a_body_becomes(demo, serve):
    with (
        serve(demo, max_body=2**16) as (address, _),
        httpx.Client(base_url=address, timeout=30) as client,
    ):
        bomb = gzip.compress(b" " * 2**24)
        assert len(bomb) < 2**16
        answer = post(client, bomb)
        assert answer.status_code == 413
        assert "--max-body" in answer.json()["error"]["message"]


def test_a_key_may_come_in_either_header(demo, serve):
    with (
        serve(demo, keys=("one", "two")) as (address, _),
        httpx.Client(base_url=address, timeout=30) as client,
    ):
        for headers in (
            {"x-api-key": "one"},
            {"X-Api-Key": "two"},
            {"Authorization": "Bearer one"},
            {"Authorization": "Bearer one", "x-api-key": "wrong"},
            {"Authorization": "Bearer three", "x-api-key": "one"},
        ):
            assert client.get("/v1/models", headers=headers).status_code == 200
        for headers in (
            {},
            {"x-api-key": "three"},
            {"x-api-key": ""},
            {"Authorization": "Bearer three", "x-api-key": "four"},
            {"api-key": "one"},
        ):
            answer = client.get("/v1/models", headers=headers)
            assert answer.status_code == 401
            assert "x-api-key" in answer.json()["error"]["message"]
        for path in ("//v1/models", "/models", "/page/../v1/models", "/docs/../v1/models"):
            assert client.get(address + path).status_code in (401, 404)
        states = [
            client.post("/v1/states", json={"prompt": "x"}, headers=headers).json()
            for headers in ({"x-api-key": "one"}, {"Authorization": "Bearer one"})
        ]
        assert states[0]["id"] == states[1]["id"]
        schemes = client.get("/openapi.json", headers={"x-api-key": "one"}).json()
        assert {"bearer": []} in schemes["security"]
        assert set(schemes["components"]["securitySchemes"]) == {"bearer", "header"}


def preflight(client, **headers):
    asked = {"Access-Control-Request-Method": "POST"}
    asked["Access-Control-Request-Headers"] = "authorization,content-type"
    return client.options("/v1/chat/completions", headers=asked | ORIGIN | headers)


def test_other_websites_are_refused_unless_they_are_allowed(client):
    answer = preflight(client)
    assert answer.status_code == 405
    assert "--allow-origin" in answer.json()["error"]["message"]
    assert "access-control-allow-origin" not in answer.headers
    assert "access-control-allow-origin" not in client.get("/v1/models", headers=ORIGIN).headers


def test_allowed_websites_get_their_headers(demo, serve):
    with (
        serve(demo, keys=("one",), origins=("https://example.org",)) as (address, _),
        httpx.Client(base_url=address, timeout=30) as client,
    ):
        answer = preflight(client)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://example.org"
        assert "authorization" in answer.headers["access-control-allow-headers"]
        assert "access-control-allow-credentials" not in answer.headers
        for key, status in (("one", 200), ("two", 401)):  # a website may read why it was refused
            answer = client.get("/v1/models", headers={"x-api-key": key, **ORIGIN})
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == "https://example.org"
        assert preflight(client, Origin="https://evil.example").status_code == 400


def test_the_documentation_needs_no_other_server(client):
    answer = client.get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    assert "/v1/chat/completions" in answer.text
    assert "http://" not in answer.text
    assert "https://" not in answer.text
    assert "<script" not in answer.text
    assert client.get("/v1").json()["models"] == "/v1/models"


def test_the_description_of_the_api_has_the_answers_of_errors(client):
    document = client.get("/openapi.json").json()
    for operations in document["paths"].values():
        for operation in operations.values():
            for status in ("400", "401", "404", "413", "429", "500"):
                schema = operation["responses"][status]["content"]["application/json"]["schema"]
                assert schema["$ref"].endswith("/ErrorResponse")
