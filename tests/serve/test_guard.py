"""Who may ask, by which names, how much, and that no name becomes a path."""

import argparse
import logging
import socket

import httpx
import pytest

from tests.serve.wire import HELLO, Caller
from wkv.constraints.grammar import Grammars

KEYS = ("first-key", "second-key")
CHAT = "/v1/chat/completions"
ROUTES = [
    ("GET", "/v1/models"),
    ("GET", "/v1/models/test"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/v1/states"),
    ("POST", "/v1/states"),
    ("POST", "/v1/states/upload"),
    ("GET", "/v1/states/state-0/content"),
    ("DELETE", "/v1/states/state-0"),
    ("POST", CHAT),
    ("POST", "/v1/completions"),
    ("POST", "/v1/embeddings"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("GET", "/nothing"),
    ("GET", "/%2e/v1/models"),
    ("GET", "/page/../v1/models"),
    ("GET", "/page/%2e%2e/v1/models"),
]
NAMES = [
    "../../../../etc/passwd",
    "..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e%2fapp.py",
    "%2e%2e%5capp.py",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    "state-%00",
    "state-0000000000000000000000000000000%00",
    "state-00000000000000000000000000000000%0a",
    "state-00000000000000000000000000000000.safetensors",
    "STATE-00000000000000000000000000000000",
    "state-0000000000000000000000000000000\u0660",
    "%c0%ae%c0%ae/",
    "%ff%fe",
    "....//....//etc/passwd",
    "a" * 5000,
    "%s%s%n",
    "*",
    ".",
    "..",
]


@pytest.fixture(scope="module")
def locked(demo, serve):
    """Give the address of a server with two keys."""
    with serve(demo, keys=KEYS) as (address, _):
        yield address


def bearer(key, kind="Bearer"):
    return {"Authorization": f"{kind} {key}".encode("latin-1")}


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_nothing_is_told_without_a_key(locked, method, path):
    with Caller(locked) as caller:
        caller.send(path, b"", method, Connection="close")
        told = caller.read_until(b"\0").decode()
    status = int(told.split()[1])
    assert status == (401 if "/page/" not in path else 404), told
    assert told.count("HTTP/1.1") == 1
    if status == 401:
        assert '"type":"authentication_error"' in told
        assert '"code":"invalid_api_key"' in told
        assert "www-authenticate: bearer" in told.lower()
    assert "demo" not in told
    for key in KEYS:
        assert key not in told


@pytest.mark.parametrize(
    "headers",
    [
        bearer("first-ke"),
        bearer("first-keyx"),
        bearer(" first-key"),
        bearer("FIRST-KEY"),
        bearer("first-key", "Basic"),
        bearer("first-key,second-key"),
        bearer("kl\xe9"),
        bearer("\xff" * 1000),
        {"Authorization": "first-key"},
        {"X-Api-Key": "first-ke"},
        {"Cookie": "Authorization=Bearer first-key"},
    ],
)
def test_wrong_keys_are_refused(locked, headers):
    answer = httpx.get(f"{locked}/v1/models", headers=headers)
    assert answer.status_code == 401
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("kind", ["Bearer", "bearer", "BEARER"])
@pytest.mark.parametrize("key", KEYS)
def test_each_key_is_let_in(locked, kind, key):
    assert httpx.get(f"{locked}/v1/models", headers=bearer(key, kind)).status_code == 200
    body = {"messages": HELLO, "max_tokens": 2}
    assert httpx.post(locked + CHAT, headers=bearer(key), json=body).status_code == 200


def test_a_key_in_the_address_is_no_key(locked):
    for query in ("api_key=first-key", "key=first-key", "token=first-key"):
        assert httpx.get(f"{locked}/v1/models?{query}").status_code == 401


def test_health_and_the_page_need_no_key(locked):
    assert httpx.get(f"{locked}/health").status_code == 200
    assert httpx.get(f"{locked}/").status_code in (200, 404)
    assert httpx.get(f"{locked}/page/nothing.js").status_code == 404


def test_a_large_body_without_a_key_is_not_read(locked):
    with Caller(locked) as caller:
        caller.send(CHAT, b"", **{"Content-Length": str(2**40)})
        assert b" 401 " in caller.read_until(b"\r\n")


def test_keys_are_compared_in_constant_time(locked, monkeypatch):
    import hmac

    compared = []
    original = hmac.compare_digest

    def compare(a, b):
        compared.append((a, b))
        return original(a, b)

    monkeypatch.setattr("hmac.compare_digest", compare)
    httpx.get(f"{locked}/v1/models", headers=bearer("first-key"))
    assert len(compared) == len(KEYS)
    assert all(isinstance(side, bytes) for pair in compared for side in pair)


def test_a_server_is_for_this_machine_alone_by_default():
    from wkv.cli import serve as command

    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    args = parser.parse_args([])
    assert args.host == "127.0.0.1"
    assert command._hosts(args) == ("127.0.0.1", "localhost", "[::1]")
    assert not args.api_key


@pytest.mark.parametrize("key", ["\u043a\u043b\u044e\u0447", "", " ", "a\nb"])
def test_keys_that_no_header_can_hold_are_refused_at_the_start(key, capsys):
    from wkv.cli import main

    with pytest.raises(SystemExit) as told:
        main(["serve", "--api-key", key])
    assert told.value.code == 2
    assert "--api-key" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:1234", 200),
        ("LOCALHOST:80", 200),
        ("127.0.0.1:80", 200),
        ("[::1]", 200),
        ("[::1]:80", 200),
        ("evil.example", 400),
        ("evil.example:80", 400),
        ("localhost.evil.example", 400),
        ("evil.example:localhost", 400),
        ("localhost@evil.example", 400),
        ("127.0.0.1.evil.example", 400),
        ("::1", 400),
        ("", 400),
    ],
)
def test_only_its_own_hosts_are_served(demo, hosted, host, status):
    with Caller(hosted) as caller:
        caller.send("/v1/models", b"", "GET", Host=host)
        assert f" {status} ".encode() in caller.read_until(b"\r\n")


@pytest.fixture(scope="module")
def hosted(demo, serve):
    """Give the address of a server for this machine's names."""
    with serve(demo, hosts=("127.0.0.1", "localhost", "[::1]")) as (address, _):
        yield address


def test_other_origins_are_told_nothing(client):
    origin = {"Origin": "https://evil.example"}
    preflight = origin | {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    for answer in (
        client.options(CHAT, headers=preflight),
        client.get("/v1/models", headers=origin),
        client.post(CHAT, json={"messages": HELLO, "max_tokens": 1}, headers=origin),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control")]
    assert client.options(CHAT, headers=preflight).status_code == 405


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_what_other_sites_can_send_unasked_is_no_request(client, kind):
    headers = {} if kind is None else {"Content-Type": kind}
    data = b'{"messages": [{"role": "user", "content": "Hello"}]}'
    answer = client.post(CHAT, content=data, headers=headers)
    assert answer.status_code in (400, 415)


def test_other_sites_cannot_upload_a_state(client):
    name = client.post("/v1/states", json={"prompt": "Once"}).json()["id"]
    data = client.get(f"/v1/states/{name}/content").content
    headers = {"Origin": "https://evil.example", "Content-Type": "text/plain"}
    assert client.post("/v1/states/upload", content=data, headers=headers).status_code >= 400


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/states/{}"),
        ("GET", "/v1/states/{}/content"),
        ("DELETE", "/v1/states/{}"),
        ("GET", "/v1/models/{}"),
        ("GET", "/page/{}"),
        ("GET", "/{}"),
    ],
)
def test_no_name_becomes_a_path(served, method, path, name):
    with Caller(served[0]) as caller:
        target = path.format(name).encode("utf-8").decode("latin-1")
        caller.send(target, b"", method, Connection="close")
        told = caller.read_until(b"\0").decode("utf-8", "replace")
    status = int(told.split()[1])
    if (path, name) in {("/{}", "."), ("/{}", ".."), ("/{}", "*")}:
        assert status in (400, 404)
    assert status in (307, 400, 404, 405, 414), told
    assert "root:" not in told
    assert "import " not in told


@pytest.mark.parametrize("name", [n for n in NAMES if len(n) < 100])
def test_no_name_in_a_body_becomes_a_path(client, name):
    answer = client.post(CHAT, json={"messages": HELLO, "state": name})
    assert answer.status_code == 404
    answer = client.post(CHAT, json={"messages": HELLO, "model": name})
    assert answer.status_code == 404
    assert len(answer.json()["error"]["message"]) < 500


def test_a_state_that_is_a_link_is_not_followed(client, served, tmp_path):
    states = served[1].states
    secret = tmp_path / "secret"
    secret.write_text("root:x:0:0")
    client.post("/v1/states", json={"prompt": "Once"})
    name = "state-" + "a" * 32
    link = states._tenant_folder("") / f"{name}.safetensors"
    link.symlink_to(secret)
    try:
        answer = client.get(f"/v1/states/{name}/content")
        assert answer.status_code == 404
        assert name not in [one["id"] for one in client.get("/v1/states").json()["data"]]
        answer = client.post(CHAT, json={"messages": HELLO, "state": name})
        assert answer.status_code in (400, 404)
        assert "root" not in answer.text
    finally:
        link.unlink()


@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "told"])
@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/embeddings", "/tokenize"])
def test_a_body_over_the_limit_is_refused(serve, demo, small, path, chunked):
    data = b'{"messages": "' + b"x" * 200_000 + b'"}'
    parts = (data[at : at + 5000] for at in range(0, len(data), 5000))
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(small + path, content=parts if chunked else data, headers=headers)
    assert answer.status_code == 413
    assert answer.json()["error"]["message"]
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert httpx.post(small + CHAT, json={"messages": HELLO, "max_tokens": 1}).status_code == 200


@pytest.fixture(scope="module")
def small(demo, serve):
    """Give the address of a server that takes small bodies."""
    with serve(demo, max_body=10_000) as (address, _):
        yield address


@pytest.mark.parametrize("length", ["-1", "1e3", "0x10", "\xb2", "9" * 100, "12, 13"])
def test_a_length_that_is_none_is_refused(served, length):
    with Caller(served[0]) as caller:
        caller.send(CHAT, b"{}", **{"Content-Length": length})
        told = caller.read_until(b"\r\n")
    assert any(f" {status} ".encode() in told for status in (400, 413)), told


def test_a_state_as_large_as_the_model_makes_them_can_be_uploaded(serve, demo):
    with (
        serve(demo, max_body=10_000) as (address, _),
        httpx.Client(base_url=address) as client,
    ):
        name = client.post("/v1/states", json={"prompt": "Once"}).json()["id"]
        data = client.get(f"/v1/states/{name}/content").content
        assert len(data) > 10_000
        binary = {"Content-Type": "application/octet-stream"}
        answer = client.post("/v1/states/upload", content=data, headers=binary)
        assert answer.json()["id"] == name
        answer = client.post("/v1/states/upload", content=data * 20, headers=binary)
        assert answer.status_code == 413


def test_logs_hold_nothing_that_users_send(client, caplog):
    forged = "evil\r\nERROR forged entry 4711"
    with caplog.at_level(logging.DEBUG):
        body = {"messages": [{"role": "user", "content": forged}], "max_tokens": 1}
        client.post(CHAT, json=body)
        client.post(CHAT, json=body | {"user": forged, "model": forged})
        client.post(CHAT, json=body | {forged: 1})
        client.post("/v1/embeddings", json={"input": forged})
        client.get("/v1/models/evil%0d%0aERROR%20forged%20entry%204711")
    ours = [r for r in caplog.records if not r.name.startswith(("httpcore", "httpx", "asyncio"))]
    assert not [record for record in ours if "forged" in record.getMessage()]


def test_headers_hold_nothing_that_users_send(served):
    with Caller(served[0]) as caller:
        caller.send("/v1/states/%0d%0aX-Forged:%201/", b"", "GET", Connection="close")
        head = caller.read_until(b"\0").split(b"\r\n\r\n")[0]
    assert b"\r\nX-Forged" not in head
    assert b"\r\nx-forged" not in head.lower()


def test_what_is_sent_does_not_wait_for_an_answer_to_what_was_sent_before():
    from wkv.serve.run import bind

    with bind("127.0.0.1", 0, 60) as listening:
        # asyncio turns Nagle's algorithm off only where a socket tells its protocol.
        assert listening.proto == socket.IPPROTO_TCP


@pytest.mark.parametrize("path", [CHAT, "/health", "/nothing"])
def test_a_request_with_two_ends_is_refused_and_its_connection_closed(served, path):
    with Caller(served[0]) as caller:
        caller.send(path, b"0\r\n\r\nGET /health", **{"Transfer-Encoding": "chunked"})
        told = caller.read_until(b"\0")
        assert told.startswith(b"HTTP/1.1 400 ")
        assert told.count(b"HTTP/1.1") == 1
        assert caller.is_closed()


def test_only_the_first_of_several_keys_reads_the_metrics(serve, demo):
    with serve(demo, keys=("operator", "user")) as (address, _):
        for key, status in (("operator", 200), ("user", 403), ("nobody", 401)):
            headers = {"Authorization": f"Bearer {key}"}
            assert httpx.get(f"{address}/metrics", headers=headers).status_code == status


def test_schemas_of_one_key_are_not_compiled_for_another(serve, demo, monkeypatch):
    compiled = []
    compile_one = Grammars._compile
    monkeypatch.setattr(
        Grammars, "_compile", lambda self, source: compiled.append(1) or compile_one(self, source)
    )
    schema = {"name": "x", "schema": {"const": "a"}}
    body = {"messages": HELLO, "max_tokens": 9}
    body["response_format"] = {"type": "json_schema", "json_schema": schema}
    with serve(demo, keys=("a", "b")) as (address, _):
        for key, count in (("a", 1), ("a", 1), ("b", 2), ("b", 2)):
            headers = {"Authorization": f"Bearer {key}"}
            answer = httpx.post(address + CHAT, json=body, headers=headers)
            assert answer.status_code == 200, answer.text
            assert len(compiled) == count
