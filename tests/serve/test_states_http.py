"""States over HTTP: made, listed, fetched, uploaded, gone on from, deleted; damaged: refused."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import httpx
import pytest
import safetensors
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from tests.checkpoints import random_checkpoint, save_pth
from tests.serve.wire import HELLO, Background, slow, stream, text_of, until
from wkv.batching.owned_folder import MARKER
from wkv.models.state import State
from wkv.serve import user_states
from wkv.serve.service import Limits

CHAT = "/v1/chat/completions"
BINARY = {"Content-Type": "application/octet-stream"}
SYSTEM = {"role": "system", "content": "You are kind and patient. " * 8}


def make(client, **body):
    answer = client.post("/v1/states", json=body or {"messages": [SYSTEM]})
    assert answer.status_code == 201, answer.text
    return answer.json()


def fetch(client, name):
    answer = client.get(f"/v1/states/{name}/content")
    assert answer.status_code == 200
    return answer.content


def upload(client, data):
    return client.post("/v1/states/upload", content=data, headers=BINARY)


def names(client):
    answer = client.get("/v1/states")
    assert answer.status_code == 200
    return [state["id"] for state in answer.json()["data"]]


def say(client, messages=HELLO, **fields):
    answer = client.post(CHAT, json={"messages": messages, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture(autouse=True)
def empty(request):
    """Delete what a test has kept."""
    client = request.getfixturevalue("client") if "client" in request.fixturenames else None
    yield
    if client is not None:
        for name in names(client):
            assert client.delete(f"/v1/states/{name}").status_code == 200


def test_a_state_goes_from_its_making_to_its_end(client, demo):
    made = make(client)
    assert set(made) == {"id", "object", "tokens", "bytes", "created"}
    assert made["object"] == "state"
    assert made["tokens"] > 40
    assert names(client) == [made["id"]]
    assert client.get(f"/v1/states/{made['id']}").json() == made
    data = fetch(client, made["id"])
    assert len(data) == made["bytes"]
    deleted = client.delete(f"/v1/states/{made['id']}").json()
    assert deleted == {"id": made["id"], "object": "state", "deleted": True}
    assert names(client) == []
    for path in ("", "/content"):
        assert client.get(f"/v1/states/{made['id']}{path}").status_code == 404
    assert client.delete(f"/v1/states/{made['id']}").status_code == 404
    answer = client.post(CHAT, json={"messages": HELLO, "state": made["id"]})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "no_state"
    assert upload(client, data).json()["id"] == made["id"]


def test_a_name_is_kept_and_goes_with_the_file(client):
    named = {"X-State-Name": quote("记住 “this”: ü")}
    made = client.post("/v1/states", json={"messages": [SYSTEM]}, headers=named).json()
    assert made["name"] == "记住 “this”: ü"
    assert client.get(f"/v1/states/{made['id']}").json() == made
    assert client.get("/v1/states").json()["data"] == [made]
    data = fetch(client, made["id"])
    client.delete(f"/v1/states/{made['id']}")
    assert upload(client, data).json()["name"] == made["name"]
    renamed = {**BINARY, "X-State-Name": "other"}
    answer = client.post("/v1/states/upload", content=data, headers=renamed)
    assert answer.json()["name"] == "other"
    too_long = {**BINARY, "X-State-Name": "x" * 201}
    answer = client.post("/v1/states/upload", content=data, headers=too_long)
    assert answer.status_code == 400
    assert "X-State-Name" in answer.text


def test_the_same_is_kept_once(client):
    first = make(client)
    assert make(client)["id"] == first["id"]
    assert upload(client, fetch(client, first["id"])).json()["id"] == first["id"]
    assert names(client) == [first["id"]]


@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])
def test_going_on_from_a_state_says_what_the_whole_conversation_says(client, streams):
    messages = [SYSTEM, *HELLO, {"role": "assistant", "content": "Hello! How are you?"}]
    question = {"role": "user", "content": "What is 12 + 30?"}
    name = make(client, messages=messages)["id"]
    drawn = {"seed": 5, "temperature": 1.5, "top_p": 1, "max_tokens": 30}
    want = say(client, [*messages, question], **drawn)
    if streams:
        said = text_of(stream(client, messages=[question], state=name, **drawn))
        assert said == want["choices"][0]["message"]["content"]
    else:
        got = say(client, [question], state=name, **drawn)
        assert got["choices"] == want["choices"]
        assert got["usage"]["prompt_tokens"] < want["usage"]["prompt_tokens"]


def test_several_go_on_from_one_state(client):
    name = make(client)["id"]
    want = say(client, [SYSTEM, *HELLO])["choices"][0]["message"]["content"]
    answer = say(client, state=name, n=3, temperature=0)
    assert [choice["message"]["content"] for choice in answer["choices"]] == [want] * 3
    with ThreadPoolExecutor(8) as pool:
        several = list(pool.map(lambda _: say(client, state=name, temperature=0), range(8)))
    assert {one["choices"][0]["message"]["content"] for one in several} == {want}
    assert names(client) == [name]


def test_a_text_goes_on_from_a_state_without_another_word(client):
    text = "There was once a man who had a dog"
    whole = client.post("/v1/completions", json={"prompt": text, "temperature": 0, "max_tokens": 9})
    name = make(client, prompt=text)["id"]
    body = {"prompt": "", "state": name, "temperature": 0, "max_tokens": 9}
    rest = client.post("/v1/completions", json=body)
    assert rest.status_code == 200, rest.text
    assert rest.json()["choices"][0]["text"] == whole.json()["choices"][0]["text"]
    assert rest.json()["usage"]["prompt_tokens"] == 0


def test_a_state_is_made_from_a_state(client):
    first = make(client)["id"]
    second = make(client, messages=HELLO, state=first)
    both = make(client, messages=[SYSTEM, *HELLO])
    assert second["tokens"] == both["tokens"]
    question = [{"role": "user", "content": "Who are you?"}]
    answers = [say(client, question, state=one["id"])["choices"] for one in (second, both)]
    assert answers[0] == answers[1]


def test_a_conversation_goes_on_over_a_state_and_its_own_replies(client):
    name = make(client)["id"]
    messages = list(HELLO)
    for text in ("What is 2 + 2?", "Bye"):
        messages.append(say(client, messages, state=name)["choices"][0]["message"])
        messages.append({"role": "user", "content": text})
    last = say(client, messages, state=name)
    assert last["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert say(client, [SYSTEM, *messages])["choices"] == last["choices"]


def test_what_one_conversation_keeps_is_not_found_without_its_state(client, served):
    name = make(client)["id"]
    message = [{"role": "user", "content": "A thing that nobody has asked before " * 10}]
    say(client, message, state=name)
    assert say(client, message)["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_a_file_is_of_use_to_the_library(client, demo, tmp_path):
    import wkv

    name = make(client, prompt="There was once a man")["id"]
    path = tmp_path / "one.safetensors"
    path.write_bytes(fetch(client, name))
    state = wkv.State.load(path, demo)
    want = demo.forward(demo.tokenizer.encode("There was once a man"))[1]
    for ours, theirs in zip(state.layers, want.layers, strict=True):
        torch.testing.assert_close(ours.wkv, theirs.wkv, rtol=1e-4, atol=1e-4)
    want.save(path)
    assert upload(client, path.read_bytes()).status_code == 201


def test_tenants_do_not_see_each_others_states(serve, demo):
    keys = ("first-key", "second-key")
    with serve(demo, keys=keys) as (address, _):
        one, two = (
            httpx.Client(base_url=address, headers={"Authorization": f"Bearer {key}"}, timeout=30)
            for key in keys
        )
        with one, two:
            name = make(one)["id"]
            assert names(two) == []
            for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
                assert two.request(method, f"/v1/states/{name}{path}").status_code == 404
            answer = two.post(CHAT, json={"messages": HELLO, "state": name})
            assert answer.status_code == 404
            assert two.post("/v1/states", json={"prompt": "x", "state": name}).status_code == 404
            assert make(two)["id"]
            two.delete(f"/v1/states/{names(two)[0]}")
            assert names(one) == [name]
            # Nor do they find what the others' prompts have left in the cache.
            message = [{"role": "user", "content": "A secret that is long enough to be kept " * 10}]
            say(one, message)
            cached = [
                say(client, message)["usage"]["prompt_tokens_details"]["cached_tokens"]
                for client in (two, one)
            ]
            assert cached[0] == 0
            assert cached[1] > 0


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """Give the file of another model's state."""
    import wkv

    folder = tmp_path_factory.mktemp("foreign")
    save_pth(random_checkpoint("7", n_layer=2, n_embd=64, vocab_size=256), folder / "other.pth")
    model = wkv.load(folder / "other.pth", "cpu fp32")
    model.forward([1, 2])[1].save(folder / "other.safetensors")
    return (folder / "other.safetensors").read_bytes()


def taken_apart(data):
    """Metadata and tensors of a file."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length])["__metadata__"], load_tensors(data)


def put_together(metadata, tensors):
    """A file whose digest is right, whatever it holds."""
    from wkv.models.state import _digest

    metadata = metadata | {"digest": _digest(tensors, metadata.get("notes", ""))}
    return save_tensors(tensors, metadata)


def changed(data, **fields):
    metadata, tensors = taken_apart(data)
    metadata |= {name: text for name, text in fields.items() if isinstance(text, str)}
    tensors |= {name: value for name, value in fields.items() if not isinstance(value, str)}
    return put_together(metadata, {name: t for name, t in tensors.items() if t is not None})


def damaged(data):
    """Files that are no good, by what is wrong with them."""
    length = int.from_bytes(data[:8], "little")
    metadata, tensors = taken_apart(data)
    first = next(name for name in tensors if name.endswith(".wkv"))
    logits = tensors["logits"]
    yield "nothing", b""
    yield "short", data[:4]
    yield "header only", data[: 8 + length]
    yield "half", data[: len(data) // 2]
    yield "last byte", data[:-1]
    yield "more", data + b"\0"
    yield "flipped", data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
    yield "length of 4 GB", (2**32).to_bytes(8, "little") + data[8:]
    yield "length of all", (2**64 - 1).to_bytes(8, "little") + data[8:]
    yield "header of noise", data[:8] + b"\xff" * length + data[8 + length :]
    yield "pickle", b"\x80\x02cposix\nsystem\nq\x00X\x04\x00\x00\x00trueq\x01\x85q\x02Rq\x03."
    yield "zip", b"PK\x03\x04" + b"\0" * 100
    yield "no format", changed(data, format="other")
    yield "identity", changed(data, identity="0" * 64)
    yield "generation", changed(data, generation="6")
    yield "tokens", changed(data, tokens_seen="[-1]")
    yield "tokens text", changed(data, tokens_seen='["x"]')
    yield "tokens huge", changed(data, tokens_seen="[" + "9" * 5000 + "]")
    yield "tokens deep", changed(data, tokens_seen="[" * 50_000)
    yield "no rows", changed(data, tokens_seen="[]")
    yield "two rows told", changed(data, tokens_seen="[1, 1]")
    yield "notes", changed(data, notes="[]")
    yield "notes of numbers", changed(data, notes='{"ahead": 1}')
    yield "missing layer", changed(data, **{first: None})
    yield "wrong shape", changed(data, **{first: tensors[first][:, :1].contiguous()})
    yield "wrong dtype", changed(data, **{first: tensors[first].double()})
    yield "logits short", changed(data, logits=logits[:, :7].contiguous())
    yield "logits rows", changed(data, logits=torch.cat([logits] * 3))
    yield "logits flat", changed(data, logits=logits[0].contiguous())
    yield "logits dtype", changed(data, logits=logits.to(torch.int64))
    yield "logits double", changed(data, logits=logits.double())
    doubled = {name: torch.cat([tensor] * 2) for name, tensor in tensors.items()}
    yield "two rows", put_together(metadata | {"tokens_seen": "[1, 1]"}, doubled)


def test_damaged_files_are_refused_and_the_server_goes_on(client, served, foreign):
    name = make(client, prompt="There was once a man")["id"]
    data = fetch(client, name)
    wrong = [("another model", foreign), *damaged(data)]
    taken = []
    for kind, file in wrong:
        answer = upload(client, file)
        if answer.status_code == 201:
            taken.append(kind)
            client.delete(f"/v1/states/{answer.json()['id']}")
            continue
        assert answer.status_code == 400, (kind, answer.text)
        told = answer.json()["error"]["message"]
        assert told, kind
        assert "/" not in told.replace("GET /v1", ""), (kind, told)  # no path of ours
    assert taken == []
    assert names(client) == [name]
    folder = served[1].states._tenant_folder("")
    assert {file.name for file in folder.iterdir()} == {MARKER, f"{name}.safetensors"}
    assert say(client, state=name)["choices"]


def test_a_state_that_was_made_up_harms_nobody_else(client, served, demo, monkeypatch):
    """Its values may be anything: no numbers, another size of logits, a note of any text."""
    name = make(client, prompt="There was once a man")["id"]
    data = fetch(client, name)
    _, tensors = taken_apart(data)
    first = next(key for key in tensors if key.endswith(".wkv"))
    forged = [
        changed(data, **{first: torch.full_like(tensors[first], float("nan"))}),
        changed(data, **{first: torch.full_like(tensors[first], 1e38)}),
        changed(data, logits=torch.full_like(tensors["logits"], float("nan"))),
        changed(data, logits=torch.full_like(tensors["logits"], float("-inf"))),
        changed(data, logits=tensors["logits"][:, :7].contiguous()),
        changed(data, logits=torch.cat([tensors["logits"]] * 3)),
        changed(data, logits=None),
        changed(data, notes=json.dumps({"ahead": "x" * 100_000, "tokens": "y"})),
        changed(data, tokens_seen=f"[{10**30}]"),
    ]
    drawn = {"messages": HELLO, "seed": 7, "temperature": 1.5, "top_p": 1, "max_tokens": 150}
    alone = text_of(stream(client, **drawn))
    slow(monkeypatch, demo, 0.01)
    neighbor = Background(stream, client, **drawn)
    until(lambda: served[1].scheduler_thread.load.running == 1)
    for number, file in enumerate(forged):
        answer = upload(client, file)
        assert answer.status_code in (201, 400), (number, answer.text)
        if answer.status_code == 400:
            continue
        state = answer.json()["id"]
        for path, body in (
            (CHAT, {"messages": HELLO}),
            ("/v1/completions", {"prompt": ""}),
            ("/v1/completions", {"prompt": "x", "n": 2}),
            ("/v1/states", {"prompt": "x"}),
        ):
            limit = {} if path == "/v1/states" else {"max_tokens": 2}
            told = client.post(path, json=body | limit | {"state": state})
            assert told.status_code in (200, 201, 400, 500), (number, told.text)
            assert told.json()
    chunks = neighbor.result()
    assert not [chunk for chunk in chunks if "error" in chunk]
    assert text_of(chunks) == alone
    monkeypatch.undo()
    assert say(client)["choices"]


def test_a_file_that_was_damaged_on_the_disk_is_told(client, served):
    name = make(client, prompt="There was once a man")["id"]
    path = served[1].states._tenant_folder("") / f"{name}.safetensors"
    data = path.read_bytes()
    for wrong in (b"", data[:100], data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]):
        path.write_bytes(wrong)
        answer = client.post(CHAT, json={"messages": HELLO, "state": name})
        assert answer.status_code in (400, 404, 500)
        assert str(path) not in answer.text
        assert client.get("/v1/states").status_code == 200
    path.write_bytes(data)
    assert say(client, state=name)["choices"]


def test_a_tenant_has_so_much_room_and_no_more(serve, demo):

    with (
        serve(demo, Limits(cache_bytes=2**24, disk_bytes=10**6)) as (address, _),
        httpx.Client(base_url=address, timeout=30) as client,
    ):
        kept = [make(client, prompt=f"text {number}")["id"] for number in range(3)]
        answer = client.post("/v1/states", json={"prompt": "text 4"})
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "too_many_states"
        assert sorted(names(client)) == sorted(kept)
        assert make(client, prompt="text 0")["id"] == kept[0]
        client.delete(f"/v1/states/{kept[0]}")
        assert make(client, prompt="text 4")


def test_many_make_and_delete_at_once(client, served):
    def live(number):
        name = make(client, prompt=f"a thing {number % 5}")["id"]
        client.get(f"/v1/states/{name}/content")
        client.get("/v1/states")
        return client.delete(f"/v1/states/{name}").status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = set(pool.map(live, range(40)))
    assert statuses <= {200, 404}
    assert not list(served[1].states._tenant_folder("").glob("*.partial*"))


def test_a_state_needs_one_of_messages_and_prompt(client):
    for body in ({}, {"messages": HELLO, "prompt": "x"}, {"prompt": ""}, {"messages": []}):
        answer = client.post("/v1/states", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"]


def test_a_file_tells_its_kind(client):
    assert safetensors.__version__
    answer = client.get(f"/v1/states/{make(client)['id']}/content")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert "attachment" in answer.headers["content-disposition"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_upload_is_an_error_of_the_server(client, data):
    name = make(client, prompt="There was once a man")["id"]
    file = bytearray(fetch(client, name))
    header_end = 8 + int.from_bytes(file[:8], "little")
    last = data.draw(st.sampled_from([header_end, len(file)]))
    for _ in range(data.draw(st.integers(1, 4))):
        begin = data.draw(st.integers(0, last - 1))
        end = data.draw(st.integers(begin, min(begin + 40, last)))
        file[begin:end] = data.draw(st.binary(max_size=40))
    answer = upload(client, bytes(file))
    assert answer.status_code in (201, 400, 413), answer.text
    if answer.status_code == 201:
        client.delete(f"/v1/states/{answer.json()['id']}")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int32])
def test_a_state_with_another_dtype_is_refused(client, dtype):
    file = fetch(client, make(client, prompt="There was once a man")["id"])
    tensors = {key: tensor.to(dtype) for key, tensor in load_tensors(file).items()}
    size = int.from_bytes(file[:8], "little")
    metadata = json.loads(file[8 : 8 + size])["__metadata__"]
    answer = upload(client, save_tensors(tensors, metadata))
    assert answer.status_code == 400, answer.text


def test_a_state_that_is_deleted_while_it_is_read_is_unknown(client, monkeypatch):
    name = make(client, prompt="There was once a man")["id"]
    load = State.load

    def deleted_first(path, model):
        path.unlink()
        return load(path, model)

    monkeypatch.setattr(State, "load", deleted_first)
    answer = client.post(CHAT, json={"messages": HELLO, "state": name})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "no_state"


def test_a_list_opens_only_files_that_are_new(client, monkeypatch):
    first = make(client, prompt="There was once a man")["id"]
    client.get("/v1/states")
    opened = []
    read = user_states.read_header
    monkeypatch.setattr(user_states, "read_header", lambda path: opened.append(path) or read(path))
    assert first in names(client)
    assert opened == []


def test_what_a_process_that_died_left_is_removed_at_the_next_start(serve, demo, tmp_path):
    room = Limits(cache_bytes=2**24, folder=tmp_path)
    with serve(demo, room) as (address, service), httpx.Client(base_url=address) as client:
        make(client, prompt="Once")
        folder = service.states._tenant_folder("")
    stranger, recent = folder / "thesis.partial", folder / f"{'b' * 32}.partial"
    for path in (stranger, recent, folder / f"{'a' * 32}.partial"):
        path.write_text("unfinished")
    for path in (stranger, folder / f"{'a' * 32}.partial"):
        os.utime(path, (0, 0))
    with serve(demo, room):
        left = {path.name for path in folder.glob("*.partial")}
    assert left == {stranger.name, recent.name}
