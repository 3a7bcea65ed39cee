"""`--push-to-hub`, against a hub of our own on this machine."""

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Hub(ThreadingHTTPServer):
    """A hub that takes repositories and commits; `is_closed` refuses them."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.created, self.files, self.is_closed = [], {}, False

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.reply(404, {"error": "not here"})

    def do_POST(self):
        hub = self.server
        body = self.body()
        if hub.is_closed:
            return self.reply(401, {"error": "Invalid username or password."})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            hub.created.append(name)
            return self.reply(200, {"url": f"{hub.url}/{name}", "name": name})
        if "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self.reply(200, {"files": files})
        if "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    hub.files[entry["value"]["path"]] = content
            commit = {"commitUrl": f"{hub.url}/{hub.created[-1]}/commit/1", "commitOid": "1" * 40}
            return self.reply(200, commit)
        return self.reply(200, {})

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def reply(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def hub():
    """Give a hub that listens."""
    hub = Hub()
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    yield hub
    hub.shutdown()
    hub.server_close()


def push(hub, folder, repo, source):
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_x", "HF_HOME": str(folder)}
    arguments = ["convert", str(source), str(folder / "out"), "--to", "hf", "--push-to-hub", repo]
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "wkv", *arguments],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_a_directory_is_uploaded_whole(hub, tmp_path, checkpoint_paths):
    done = push(hub, tmp_path, "anna/tiny-rwkv", checkpoint_paths["4"])
    assert done.returncode == 0, done.stderr
    assert hub.created == ["anna/tiny-rwkv"]
    written = {
        file.name: file.read_bytes() for file in (tmp_path / "out").iterdir() if file.is_file()
    }
    assert hub.files == written
    assert f"{hub.url}/anna/tiny-rwkv" in done.stdout


def test_a_hub_that_refuses_leaves_the_directory(hub, tmp_path, checkpoint_paths):
    hub.is_closed = True
    done = push(hub, tmp_path, "anna/tiny-rwkv", checkpoint_paths["4"])
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("wkv: ")
    assert "could not be uploaded to anna/tiny-rwkv" in last
    assert "hf auth login" in last
    assert (tmp_path / "out" / "config.json").is_file()


def test_a_name_that_is_none_is_refused(hub, tmp_path, checkpoint_paths):
    done = push(hub, tmp_path, "../anna", checkpoint_paths["4"])
    assert done.returncode == 1
    assert "'../anna' is not a valid repository name" in done.stderr
    assert not (tmp_path / "out").exists()  # it is said before the work is done
