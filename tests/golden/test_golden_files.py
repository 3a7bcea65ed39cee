"""Files that an earlier version wrote are read back, and mean what they meant then.

`files` was written by commit b837123 (0.1.0) with a random RWKV-7 of two layers whose ids are
bytes; `mixed` came later: calibrated int4, with some matrices in int8. A test that fails here says
that users' own files can no longer be read: change the code, never the files. A new format gets new
files beside these.
"""

import json
import shutil
from pathlib import Path

import httpx
import pytest
import torch

import wkv
from tests.serve.conftest import running
from wkv.cli import main

FILES = Path(__file__).parent / "files"
EXPECTED = json.loads((FILES / "expected.json").read_text())
EXPECTED |= json.loads((FILES / "mixed.expected.json").read_text())
IDS = list(b"Alice was beginning to get very tired")
GREEDY = {"model": "golden", "max_output_tokens": 16, "temperature": 0}
VARYING = {"id", "created", "request_id", "created_at"}


@pytest.fixture(scope="module")
def model():
    return wkv.load(FILES / "model.safetensors", "cpu fp32", engine="torch")


def close(found, expected):
    return torch.allclose(found, torch.tensor(expected), rtol=1e-4, atol=1e-4)


def without(value, names=VARYING):
    """A JSON value without the fields that differ from call to call."""
    if isinstance(value, dict):
        return {key: without(inner) for key, inner in value.items() if key not in names}
    return [without(inner) for inner in value] if isinstance(value, list) else value


def text_of(response):
    return response["output"][0]["content"][0]["text"]


def test_a_models_identity_stays(model):
    assert model.identity == EXPECTED["identity"]


def test_a_state(model):
    state = wkv.State.load(FILES / "state.safetensors", model)
    assert state.tokens_seen == (len(IDS),)
    assert close(state.logits[0], EXPECTED["logits"])
    assert close(model.forward(IDS)[0], EXPECTED["logits"])
    assert close(model.forward(list(b" of"), state)[0], EXPECTED["logits_after_of"])


@pytest.mark.parametrize(
    "name", ["int8.safetensors", "int4.safetensors", "fp32i8.pth", "mixed.safetensors"]
)
def test_packed_and_converted_weights(model, name):
    packed = wkv.load(FILES / name, engine="torch")
    assert packed.identity == model.identity or name == "fp32i8.pth"
    assert close(packed.forward(IDS)[0], EXPECTED[name.split(".")[0]])


def test_a_saved_chat(model):
    from wkv.chat import ChatStore

    conversation = ChatStore(FILES / "chats").load("golden", model)
    entries = [[e.kind, e.text, e.reply] for e in conversation.now.entries]
    assert entries == EXPECTED["chat"]
    assert conversation.settings.max_tokens == 20
    assert "".join(conversation.reply("And now?")) == EXPECTED["chat_next"]
    again = conversation.again()
    assert ("".join(again)).strip() == EXPECTED["chat"][-1][2]


def test_stored_responses_and_states(model, tmp_path):
    from wkv.serve.app import create_app
    from wkv.serve.service import Limits, ServerSettings

    folder = tmp_path / "cache"
    shutil.copytree(FILES / "cache", folder)
    app = create_app(model, ServerSettings("golden"), Limits(cache_bytes=2**24, folder=folder))
    with running(app) as address, httpx.Client(base_url=address, timeout=60) as client:
        for stored in EXPECTED["responses"]:
            assert client.get(f"/v1/responses/{stored['id']}").json() == stored
        last = EXPECTED["responses"][-1]["id"]
        body = GREEDY | {"input": "Why?", "previous_response_id": last, "store": False}
        answer = client.post("/v1/responses", json=body).json()
        assert text_of(answer) == text_of({"output": EXPECTED["third"]})
        kept = EXPECTED["kept_state"]
        found = client.get(f"/v1/states/{kept['id']}").json()
        assert without(found) == without(kept)  # `created` is the time of the checkout
    for file in (FILES / "cache/notes").iterdir():
        assert (folder / "notes" / file.name).is_file()


def test_batch_output(tmp_path):
    arguments = [str(FILES / "model.safetensors"), "--strategy", "cpu fp32"]
    out = tmp_path / "out.jsonl"
    assert main(["batch", str(FILES / "batch-in.jsonl"), str(out), *arguments]) == 1
    old, new = (
        sorted((json.loads(line) for line in path.read_text().splitlines()), key=str)
        for path in (FILES / "batch-out.jsonl", out)
    )
    by_name = [{row["custom_id"]: row for row in rows} for rows in (old, new)]
    assert set(by_name[0]) == set(by_name[1])
    for name in ("chat", "text"):
        assert _shape(by_name[0][name]) == _shape(by_name[1][name])
    assert by_name[0]["wrong"]["response"]["status_code"] == 400
    answered = tmp_path / "again.jsonl"
    shutil.copy(FILES / "batch-out.jsonl", answered)
    assert main(["batch", str(FILES / "batch-in.jsonl"), str(answered), *arguments]) == 0
    assert answered.read_bytes() == (FILES / "batch-out.jsonl").read_bytes()


def _shape(row):
    """Return a row without ids and times, and with rounded numbers; the rest must not change.

    Tokens that are not whole characters are written as OpenAI does, "bytes:\\xc0". Earlier versions
    wrote U+FFFD for all of them, so that alternatives were lost. They did not count drafts.
    """
    row = json.loads(json.dumps(without(row)), parse_float=lambda text: round(float(text), 3))
    for choice in row["response"]["body"]["choices"]:
        if choice["logprobs"] is not None and "tokens" in choice["logprobs"]:
            del choice["logprobs"]["tokens"], choice["logprobs"]["top_logprobs"]
    usage = row["response"]["body"]["usage"]
    details = usage.pop("completion_tokens_details", {})
    return row | {"reasoning": details.get("reasoning_tokens", 0)}
