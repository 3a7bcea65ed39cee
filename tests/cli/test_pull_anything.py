"""Models of repositories and addresses, on servers of our own; `wkv models --here`, `wkv rm`."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

import wkv
from tests.checkpoints import random_checkpoint, save_pth
from wkv import hub
from wkv.cli import main
from wkv.errors import CatalogError
from wkv.hub import repository, sources, transfer
from wkv.hub.repository import Address, Repository, parse
from wkv.hub.sources import HuggingFace, ModelScope
from wkv.hub.transfer import Remote, download

COMMIT = "c" * 40


class Server(ThreadingHTTPServer):
    """Files by "OWNER/NAME/PATH", served as both hubs do, and as plain addresses."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}
        self.requests = []
        self.cut = []  # numbers of bytes after which the next connections are closed
        self.status = {}  # path to status
        self.sums = {}
        self.ignores_ranges = False
        self.lower_case = False

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def in_repository(self, repo):
        return {
            name.removeprefix(f"{repo}/"): content
            for name, content in self.files.items()
            if name.startswith(f"{repo}/")
        }

    def sum_of(self, name):
        return self.sums.get(name, hashlib.sha256(self.files[name]).hexdigest())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server, parts = self.server, urlsplit(self.path)
        path, query = unquote(parts.path).lstrip("/"), parse_qs(parts.query)
        server.requests.append((self.path, self.headers.get("Range")))
        if status := server.status.get(path):
            return self.send(status, b"{}")
        if path.startswith("api/models/"):
            return self.huggingface("/".join(path.split("/")[2:4]))
        if path.startswith("api/v1/models/"):
            repo = "/".join(path.split("/")[3:5])
            if path.endswith("/repo/files"):
                return self.modelscope(repo)
            return self.redirect(f"/plain/{repo}/{query['FilePath'][0]}")
        if "/resolve/" in path:
            repo, _, rest = path.partition("/resolve/")
            return self.file(f"{repo}/{rest.partition('/')[2]}")
        return self.file(path.removeprefix("plain/"))

    def huggingface(self, repo):
        files = self.server.in_repository(repo)
        if not files:
            return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        siblings = [
            {
                "rfilename": name,
                "size": len(content),
                "lfs": {
                    "sha256": self.server.sum_of(f"{repo}/{name}"),
                    "size": 1,
                    "pointerSize": 1,
                },
            }
            for name, content in files.items()
        ]
        return self.send(
            200, json.dumps({"id": repo, "sha": COMMIT, "siblings": siblings}).encode()
        )

    def modelscope(self, repo):
        files = self.server.in_repository(repo)
        if not files:
            return self.send(404, b'{"Code": 10010205001, "Message": "not found"}')
        listed = [
            {
                "Path": name,
                "Type": "blob",
                "Size": len(content),
                "Sha256": self.server.sum_of(f"{repo}/{name}"),
            }
            for name, content in files.items()
        ]
        body = {"Code": 200, "Data": {"Files": [{"Path": "x", "Type": "tree"}, *listed]}}
        if self.server.lower_case:
            body = json.loads(json.dumps(body).lower())
        return self.send(200, json.dumps(body).encode())

    def redirect(self, target):
        self.send(302, b"", {"Location": target.replace(" ", "%20")})

    def file(self, name):
        content = self.server.files.get(name)
        if content is None:
            return self.send(404, b"")
        asked, start = self.headers.get("Range"), 0
        if asked and not self.server.ignores_ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                return self.send(416, b"")
        headers = {"Content-Length": str(len(content) - start)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.send_response(206 if start else 200)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        end = len(content)
        if self.server.cut:
            end = start + self.server.cut.pop(0)
            self.close_connection = True
        self.wfile.write(content[start:end])
        return None

    def send(self, status, body, headers=None):
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(transfer.time, "sleep", lambda _: None)
    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def only(server, monkeypatch):
    """Let every source be the server, in the given forms."""

    def use(*kinds):
        forms = {
            "huggingface": HuggingFace(endpoint=server.url),
            "hf-mirror": HuggingFace("hf-mirror", server.url),
            "modelscope": ModelScope(endpoint=server.url),
            "dead": HuggingFace(endpoint="http://127.0.0.1:9"),
        }
        tried = [forms[kind] for kind in kinds]
        monkeypatch.setattr(repository, "sources", lambda _: tried)
        monkeypatch.setattr(hub.download, "sources", lambda _: tried)

    use("huggingface")
    return use


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "tiny.pth"
    save_pth(random_checkpoint("7", n_layer=1, n_embd=64, vocab_size=256), path)
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["huggingface", "modelscope"])
def test_a_repository_with_one_model(server, only, checkpoint, kind, capsys):
    only(kind)
    server.files = {"me/tiny/a b.pth": checkpoint, "me/tiny/README.md": b"hello"}
    assert main(["info", "me/tiny", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["n_embd"] == 64
    assert printed.err.startswith("fetching a b.pth, ")
    assert printed.err.endswith(f", from {server.url.removeprefix('http://')}\n")
    server.requests.clear()
    assert wkv.load("me/tiny", tokenizer="bytes").config.n_embd == 64
    assert server.requests == []


def test_a_directory_of_hugging_face(server, only, checkpoint, tmp_path):
    names = ("config.json", "model.safetensors", "tokenizer.json", "modeling_rwkv7.py")
    server.files = {f"me/dir/{name}": checkpoint for name in names}
    server.files |= {"me/dir/pytorch_model.bin": b"old", "me/dir/onnx/model.onnx": b"x"}
    assert main(["pull", "https://huggingface.co/me/dir/tree/main"]) == 0
    folder = repository.home() / "me--dir" / "main"
    found = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert found == {"config.json", "model.safetensors", "tokenizer.json"}
    assert hub.resolve("me/dir") == folder


def test_one_file_of_several(server, only, checkpoint, capsys):
    server.files = {f"me/many/{name}.pth": checkpoint for name in ("a", "b")}
    assert main(["pull", "me/many"]) == 1
    assert "several models; give one: me/many/a.pth, me/many/b.pth" in capsys.readouterr().err
    assert main(["pull", "me/many/b.pth"]) == 0
    assert capsys.readouterr().out == f"{repository.home() / 'me--many/main/b.pth'}\n"
    assert main(["pull", "me/many/c.pth"]) == 1
    assert "there is no file c.pth; did you mean" in capsys.readouterr().err


def test_an_address(server, checkpoint, capsys):
    server.files = {"models/my tiny.pth": checkpoint}
    address = f"{server.url}/plain/models/my%20tiny.pth?download=true"
    assert main(["info", address, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_embd"] == 64
    assert wkv.load(address, tokenizer="bytes").path.name == "my tiny.pth"
    assert main(["pull", f"{server.url}/plain/none.pth"]) == 1
    assert "has no such file" in capsys.readouterr().err
    assert main(["pull", f"{server.url}/page.html"]) == 1
    assert "ends in '.html', expected" in capsys.readouterr().err


def test_an_interrupted_download_continues(server, tmp_path):
    content = bytes(range(256)) * 4000
    server.files = {"big.pth": content}
    remote = Remote(f"{server.url}/big.pth", "big.pth", len(content))
    server.cut = [300_000, 0, 0, 0, 0, 0]
    with pytest.raises(
        CatalogError, match=r"stopped after 300,000 of 1,024,000 bytes.*run the same"
    ):
        download(remote, tmp_path / "big.pth", lambda *_: None)
    server.cut = [100_000]
    reported = []
    done = download(remote, tmp_path / "big.pth", lambda *progress: reported.append(progress))
    assert done.read_bytes() == content
    assert reported[0] == ("fetching", 300_000, 1_024_000)
    assert [asked for _, asked in server.requests[-2:]] == ["bytes=300000-", "bytes=400000-"]
    assert list(tmp_path.glob("*.incomplete")) == []


def test_a_server_that_ignores_ranges_or_has_a_shorter_file_now(server, tmp_path):
    server.files = {"a.pth": b"new content"}
    remote = Remote(f"{server.url}/a.pth", "a.pth")
    partial = tmp_path / "a.pth.incomplete"
    for ignores, begun in ((True, b"old"), (False, b"a much longer old content")):
        server.ignores_ranges = ignores
        partial.write_bytes(begun)
        done = download(remote, tmp_path / "a.pth", lambda *_: None)
        assert done.read_bytes() == b"new content"
        done.unlink()


def test_a_wrong_checksum_or_size_is_refused(server, only, checkpoint, capsys):
    server.files = {"me/tiny/a.pth": checkpoint}
    server.sums = {"me/tiny/a.pth": "0" * 64}
    assert main(["pull", "me/tiny"]) == 1
    assert "expected " + "0" * 64 in capsys.readouterr().err
    assert not [path for path in repository.home().rglob("*") if path.is_file()]


def test_the_next_source_is_tried(server, only, checkpoint, capsys):
    server.files = {"me/tiny/a.pth": checkpoint}
    only("dead", "modelscope")
    assert main(["pull", "me/tiny"]) == 0
    only("dead", "dead")
    assert main(["pull", "me/other"]) == 1
    err = capsys.readouterr().err
    assert "could not be reached" in err
    assert "check the network" in err
    server.lower_case = True
    only("modelscope")
    assert main(["pull", "me/tiny/a.pth"]) == 0


def test_a_catalog_model_from_modelscope_has_the_checksum_of_the_catalog(server, only, monkeypatch):
    entry = hub.find("g1:0.1b")
    server.files = {f"{entry.repo}/{entry.file}": b"another file"}
    only("dead", "modelscope")
    with pytest.raises(CatalogError, match=f"expected {entry.sha256}"):
        hub.fetch(entry)
    content = b"the file"
    right = wkv.hub.Entry(**{**vars(entry), "sha256": hashlib.sha256(content).hexdigest()})
    server.files = {f"{entry.repo}/{entry.file}": content}
    reported = []
    path = hub.fetch(right, on_source=reported.append)
    assert path.read_bytes() == content
    assert reported == [server.url]
    assert hub.cached(right) == path
    only("modelscope")
    with pytest.raises(CatalogError, match="no checksum"):
        hub.fetch(wkv.hub.Entry(**{**vars(entry), "sha256": None, "name": "x:1b", "file": "y.pth"}))


def test_models_here_and_rm(server, only, checkpoint, capsys):
    server.files = {"me/tiny/a.pth": checkpoint, "me/many/a.pth": checkpoint}
    server.files |= {"me/many/b.pth": checkpoint, "c.pth": checkpoint}
    for name in ("me/tiny", "me/many/b.pth", f"{server.url}/c.pth"):
        assert main(["pull", name]) == 0
    capsys.readouterr()
    assert main(["models", "--here", "--json"]) == 0
    listed = {model["name"]: model for model in json.loads(capsys.readouterr().out)}
    assert {"me/tiny", "me/many/b.pth"} < set(listed)
    assert all(Path(model["path"]).exists() for model in listed.values())
    for name in listed:
        assert main(["rm", name]) == 0
    assert main(["models", "--here"]) == 0
    assert capsys.readouterr().err.endswith("0 models, 0 bytes; `wkv rm NAME` removes one\n")
    assert main(["rm", "me/tiny"]) == 1
    assert "is not on this machine" in capsys.readouterr().err
    assert main(["rm", "./mine.pth"]) == 1
    assert "yours to delete" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("RWKV/rwkv-4-world-3b", Repository("RWKV/rwkv-4-world-3b")),
        ("me/x@dev/q/a.gguf", Repository("me/x", "q/a.gguf", "dev")),
        ("https://huggingface.co/me/x", Repository("me/x")),
        ("https://hf-mirror.com/me/x/", Repository("me/x")),
        ("https://huggingface.co/me/x/tree/main", Repository("me/x")),
        ("https://huggingface.co/me/x/blob/v1/a%20b.pth", Repository("me/x", "a b.pth", "v1")),
        (
            "https://huggingface.co/me/x/resolve/main/a.pth?download=true",
            Repository("me/x", "a.pth"),
        ),
        ("https://modelscope.cn/models/me/x", Repository("me/x")),
        ("https://www.modelscope.cn/models/me/x/resolve/master/a.pth", Repository("me/x", "a.pth")),
        ("https://example.com/a.safetensors", Address("https://example.com/a.safetensors")),
        ("me/model.pth", None),
        ("./me/x", None),
        ("/me/x", None),
        ("me/../x", None),
        ("me/x/../../y.pth", None),
        ("https://huggingface.co/me/x/resolve/main/../../../a.pth", None),
        ("C:\\models\\x.pth", None),
        ("x", None),
    ],
)
def test_names(name, expected):
    assert parse(name) == expected


def test_a_folder_that_exists_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me").mkdir()
    assert parse("me/model") is None


def test_sources_by_name(monkeypatch):
    assert [source.name for source in sources.sources("auto")] == list(sources.NAMES)
    assert [source.endpoint for source in sources.sources("modelscope")] == [sources.MODELSCOPE]
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://own/")
    assert [source.endpoint for source in sources.sources("auto")] == ["http://own"]
    with pytest.raises(CatalogError, match="'bing' is not a source; expected auto or huggingface"):
        sources.sources("bing")
