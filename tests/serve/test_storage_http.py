"""A folder that is full, gone or shared: what is promised is stored, and nobody else reads it."""

import httpx
import pytest

from tests.serve.wire import HELLO, stream
from wkv.serve.service import Limits

BODY = {"input": "Hello", "max_output_tokens": 3}


@pytest.fixture
def stored(serve, demo, tmp_path):
    """Give a client, and the folder of its server."""
    folder = tmp_path / "cache"
    room = Limits(cache_bytes=2**24, folder=folder)
    with (
        serve(demo, room) as (address, _),
        httpx.Client(base_url=address, timeout=30) as client,
    ):
        yield client, folder


@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])
def test_a_response_that_cannot_be_stored_is_refused_before_it_begins(stored, caplog, streams):
    client, folder = stored
    assert client.post("/v1/responses", json=BODY).status_code == 200
    folder.rename(folder.with_name("moved"))  # unlike rmtree, at once, while it is written to
    folder.write_text("no folder")
    for _ in range(3):
        answer = client.post("/v1/responses", json=BODY | {"stream": streams})
        assert answer.status_code == 507
        assert str(folder) not in answer.text
    assert len([record for record in caplog.records if "stored" in record.getMessage()]) == 1
    assert client.post("/v1/responses", json=BODY | {"store": False}).status_code == 200
    assert client.get("/health").json()["writing"] == 0


def test_a_response_in_a_folder_that_was_removed_is_found_again(stored):
    client, folder = stored
    client.post("/v1/responses", json=BODY)
    folder.rename(folder.with_name("moved"))  # unlike rmtree, at once, while it is written to
    answer = client.post("/v1/responses", json=BODY)
    if answer.status_code == 200:
        follow = BODY | {"previous_response_id": answer.json()["id"]}
        assert client.post("/v1/responses", json=follow).status_code == 200


def test_a_response_that_was_interrupted_is_no_history(served, client):
    name = "ab" * 16
    value = {"tenant": "", "messages": HELLO, "response": None}
    served[1].values.put_now(name, value)
    assert client.get(f"/v1/responses/resp_{name}").status_code == 404
    follow = BODY | {"previous_response_id": f"resp_{name}"}
    assert client.post("/v1/responses", json=follow).status_code == 404


def test_all_files_and_folders_are_private(serve, demo, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(0o755)
    room = Limits(cache_bytes=2**24, folder=folder)
    with serve(demo, room) as (address, _), httpx.Client(base_url=address, timeout=30) as client:
        assert client.post("/v1/responses", json=BODY).status_code == 200
        name = client.post("/v1/states", json={"messages": HELLO}).json()["id"]
        assert stream(client, messages=HELLO, state=name, max_tokens=3)
    # The server has ended, so that no file is still being written.
    paths = list(folder.rglob("*"))
    assert {path.name for path in folder.iterdir()} == {"cache", "notes", "kept"}
    assert len(paths) > 6
    assert not [path for path in paths if path.stat().st_mode & 0o077]
