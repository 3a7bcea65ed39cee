"""`wkv pull` and models by name, against a hub of our own on this machine."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.checkpoints import random_checkpoint, save_pth
from wkv.hub import find

UNKNOWN_SUM = "pile7:168m"  # the catalog knows no checksum of it
KNOWN_SUM = "world7:0.1b"
COMMIT = "c" * 40
STEP = 10 * 2**20  # the library hands on what comes in steps of this size
BIG, CUT = 3 * STEP, 2 * STEP + 2**20


class Hub(ThreadingHTTPServer):
    """A hub: files by path, and how badly it behaves."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}  # "repo/file" to bytes
        self.etags = {}  # other than the file's own checksum
        self.cut_after = None  # bytes, after which a connection is dropped
        self.is_ill = False  # 503 to every GET
        self.pause = 0.0  # seconds between pieces
        self.commit = {"X-Repo-Commit": COMMIT}
        self.asked = []  # (method, path, Range)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def serve(self, name, content, etag=None):
        entry = find(name)
        path = f"{entry.repo}/{entry.file}"
        self.files[path] = content
        self.etags[path] = etag or hashlib.sha256(content).hexdigest()

    def ranges(self):
        return [asked for method, _, asked in self.asked if method == "GET"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer("HEAD")

    def do_GET(self):
        self.answer("GET")

    def log_message(self, *_):
        pass

    def answer(self, method):
        hub = self.server
        repo, resolved, rest = unquote(self.path).lstrip("/").partition("/resolve/")
        if not resolved:  # the library also asks for other things than files
            return self.head(404, 0, {})
        path = f"{repo}/{rest.partition('/')[2]}"
        asked = self.headers.get("Range")
        hub.asked.append((method, path, asked))
        if path not in hub.files:
            return self.head(404, 0, {"X-Error-Code": "EntryNotFound", **hub.commit})
        if method == "GET" and hub.is_ill:
            return self.head(503, 0, {})
        content = hub.files[path]
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        headers = {
            **hub.commit,
            "ETag": f'"{hub.etags[path]}"',
            "Accept-Ranges": "bytes",
        }
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.head(206 if asked else 200, len(content) - start, headers)
        return self.body(content[start:]) if method == "GET" else None

    def head(self, status, length, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()

    def body(self, content):
        hub = self.server
        end = len(content) if hub.cut_after is None else hub.cut_after
        for begin in range(0, end, 2**18):
            self.wfile.write(content[begin : min(begin + 2**18, end)])
            time.sleep(hub.pause)
        if end < len(content):
            hub.is_ill = True
            self.close_connection = True


@pytest.fixture
def hub():
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def environment(hub, tmp_path):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return {
        **kept,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


@pytest.fixture
def run(environment):
    def run_wkv(*arguments):
        command = [sys.executable, "-m", "wkv", *arguments]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    return run_wkv


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "tiny.pth"
    save_pth(random_checkpoint("7", n_layer=2, n_embd=64, vocab_size=256), path)
    return path.read_bytes()


def is_one_line(done):
    return done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1


def in_cache(tmp_path, pattern="*"):
    blobs = (tmp_path / "home").glob(f"hub/*/blobs/{pattern}")
    return [path for path in blobs if path.suffix != ".lock"]


def test_a_pull_prints_the_path_and_the_next_one_asks_nobody(hub, run, checkpoint):
    hub.serve(UNKNOWN_SUM, checkpoint)
    done = run("pull", UNKNOWN_SUM)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.removesuffix("\n")).read_bytes() == checkpoint
    assert done.stderr.startswith(f"fetching {UNKNOWN_SUM}: RWKV-x070-Pile-168M")
    assert done.stderr.count("\n") == 1  # no bar in a pipe
    hub.asked.clear()
    again = run("pull", find(UNKNOWN_SUM).file)
    assert (again.stdout, again.stderr, hub.asked) == (done.stdout, "", [])


def test_commands_take_names_and_fetch_what_is_not_here(hub, run, checkpoint, tmp_path):
    hub.serve(UNKNOWN_SUM, checkpoint)
    done = run("info", UNKNOWN_SUM.upper(), "--json")
    assert json.loads(done.stdout)["n_embd"] == 64, done.stderr
    listed = json.loads(run("models", "pile7", "--json").stdout)
    here = {entry["name"]: entry["path"] for entry in listed}
    assert here[UNKNOWN_SUM].startswith(str(tmp_path))
    assert here["pile7:421m"] is None
    assert [line.split()[-1] for line in run("models", "pile7").stdout.splitlines()] == [
        "local",
        "yes",
        "-",
        "-",
    ]
    assert UNKNOWN_SUM in run("doctor").stdout


def test_in_python_a_name_is_its_cached_file(hub, run, environment, checkpoint):
    hub.serve(UNKNOWN_SUM, checkpoint)
    code = f"import wkv; print(wkv.load({UNKNOWN_SUM!r}).config.n_embd)"
    command = [sys.executable, "-c", code]
    absent = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert f"CatalogError: {UNKNOWN_SUM} is not on this machine yet" in absent.stderr
    assert f"wkv pull {UNKNOWN_SUM}" in absent.stderr
    assert hub.asked == []
    run("pull", UNKNOWN_SUM)
    assert subprocess.check_output(command, env=environment, text=True) == "64\n"


def test_a_pull_goes_on_where_an_earlier_one_was_cut_off(hub, run, tmp_path):
    content = os.urandom(BIG)
    hub.serve(UNKNOWN_SUM, content)
    hub.cut_after = CUT
    cut = run("pull", UNKNOWN_SUM)
    assert cut.returncode == 1
    assert cut.stdout == ""
    assert f"the download stopped after {2 * STEP:,} of {BIG:,} bytes" in cut.stderr
    assert "run the same command again to resume it" in cut.stderr
    assert [path.stat().st_size for path in in_cache(tmp_path)] == [2 * STEP]
    hub.cut_after, hub.is_ill = None, False
    hub.asked.clear()
    done = run("pull", UNKNOWN_SUM)
    assert done.returncode == 0, done.stderr
    assert hub.ranges() == [f"bytes={2 * STEP}-"]
    assert Path(done.stdout.removesuffix("\n")).read_bytes() == content
    assert [path.suffix for path in in_cache(tmp_path)] == [""]


def test_a_connection_that_breaks_once_is_taken_up_again_at_once(hub, run):
    content = os.urandom(BIG)
    hub.serve(UNKNOWN_SUM, content)
    hub.cut_after = CUT

    def recover():
        while not hub.is_ill:
            time.sleep(0.01)
        hub.cut_after, hub.is_ill = None, False

    threading.Thread(target=recover, daemon=True).start()
    done = run("pull", UNKNOWN_SUM)
    assert done.returncode == 0, done.stderr
    assert hub.ranges() == [None, f"bytes={2 * STEP}-"]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to send")
def test_ctrl_c_keeps_what_came_and_says_so(hub, environment, tmp_path):
    hub.serve(UNKNOWN_SUM, os.urandom(BIG))
    hub.pause = 0.02
    command = [sys.executable, "-m", "wkv", "pull", UNKNOWN_SUM]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while not any(path.stat().st_size for path in in_cache(tmp_path)):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout) == (130, "")
    assert "the downloaded part is saved" in stderr
    assert "Traceback" not in stderr
    assert in_cache(tmp_path, "*.incomplete")


def test_a_wrong_checksum_is_refused_and_the_file_does_not_stay(hub, run, tmp_path):
    hub.serve(KNOWN_SUM, b"not the model", etag="small")
    done = run("pull", KNOWN_SUM)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "has the SHA256" in done.stderr
    assert f"expected {find(KNOWN_SUM).sha256}" in done.stderr
    assert in_cache(tmp_path) == []
    assert json.loads(run("models", "world7", "--json").stdout)[0]["path"] is None


def test_the_checksum_of_the_hub_counts_where_the_catalog_knows_none(hub, run, tmp_path):
    hub.serve(UNKNOWN_SUM, b"damaged on the way", etag="0" * 64)
    done = run("pull", UNKNOWN_SUM)
    assert done.returncode == 1
    assert "expected " + "0" * 64 in done.stderr
    assert in_cache(tmp_path) == []


def test_a_file_that_was_replaced_is_refused_before_it_comes(hub, run):
    hub.serve(KNOWN_SUM, b"a newer model")
    done = run("pull", KNOWN_SUM)
    assert is_one_line(done)
    assert "it was replaced after the catalog was written" in done.stderr
    assert "https://huggingface.co/BlinkDL/rwkv-7-world" in done.stderr
    assert hub.ranges() == []


def test_a_file_that_is_gone_names_the_repository(hub, run):
    done = run("pull", KNOWN_SUM)
    assert is_one_line(done)
    assert "which may have been renamed" in done.stderr
    assert "https://huggingface.co/BlinkDL/rwkv-7-world" in done.stderr


def test_an_unreachable_hub_is_one_sentence(run, environment):
    environment["HF_ENDPOINT"] = "http://127.0.0.1:9"
    done = run("pull", KNOWN_SUM)
    assert is_one_line(done)
    for advice in (
        "could not be reached",
        "check the network",
        "HF_ENDPOINT",
        "manually",
        "https:",
    ):
        assert advice in done.stderr


def test_offline_says_so(hub, run, environment):
    environment["HF_HUB_OFFLINE"] = "1"
    done = run("pull", KNOWN_SUM)
    assert is_one_line(done)
    assert "HF_HUB_OFFLINE is set" in done.stderr
    assert hub.asked == []


def test_something_that_is_no_hub_is_told_as_that(hub, run):
    hub.serve(KNOWN_SUM, b"Please log in to this network.")
    hub.commit = {}
    done = run("pull", KNOWN_SUM)
    assert is_one_line(done)
    assert "does not answer like a Hugging Face hub" in done.stderr


def test_a_tag_that_would_leave_the_cache_is_no_hub_s(hub, run, tmp_path):
    hub.serve(KNOWN_SUM, b"x", etag="../../../outside")
    done = run("pull", KNOWN_SUM)
    assert is_one_line(done)
    assert "does not answer like a Hugging Face hub" in done.stderr
    assert list(tmp_path.rglob("outside*")) == []


def test_an_entry_of_your_own_pinned_to_a_commit(hub, environment):
    content = os.urandom(5_000_000)
    hub.files["me/mine/a.pth"] = content
    hub.etags["me/mine/a.pth"] = "small"
    code = (
        "from wkv.hub import Entry, cached, fetch\n"
        "e = Entry(name='mine:1m', generation='7', repo='me/mine', file='a.pth', n_params=1,\n"
        "    n_layer=1, n_embd=1, context=1, languages='en', license='mit',\n"
        f"    sha256='{hashlib.sha256(content).hexdigest()}', revision='{COMMIT}')\n"
        "told = []\n"
        "path = fetch(e, lambda *progress: told.append(progress))\n"
        "assert told[0] == ('fetching', 0, 5_000_000)\n"
        "assert told[-1] == ('checking', 5_000_000, 5_000_000)\n"
        "assert fetch(e) == cached(e) == path\n"
        "print(path)\n"
    )
    command = [sys.executable, "-c", code]
    path = subprocess.check_output(command, env=environment, text=True)
    assert Path(path.removesuffix("\n")).read_bytes() == content
    assert len(hub.ranges()) == 1


def test_percent_signs_in_names_arrive(hub, run):
    content = b"a raven"
    hub.serve("raven:1.5b", content, etag="small")
    done = run("pull", "raven:1.5b")
    assert "has the SHA256" in done.stderr  # it was found, and is not what the catalog knows
    assert hub.asked[0][1].endswith("Eng98%-Other2%-20230520-ctx4096.pth")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("g1:0.1", "did you mean g1:0.1b?"),
        ("g1", "expected one of its sizes: g1:0.1b, g1:0.4b"),
        ("wrold7:1.5b", "did you mean world7:1.5b"),
        ("zzz:1b", "expected one of g1"),
    ],
)
@pytest.mark.parametrize("command", ["pull", "info"])
def test_a_typo_gets_the_nearest_names(run, hub, command, name, told):
    done = run(command, name)
    assert is_one_line(done)
    assert told in done.stderr
    assert hub.asked == []


def test_doctor_reports_a_broken_torch_and_exits_1(environment, tmp_path):
    (tmp_path / "torch.py").write_text("raise OSError('libtorch.so: wrong ELF class')")
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), os.getcwd()])
    command = [sys.executable, "-m", "wkv", "doctor", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert "wrong ELF class" in report["torch"]["found"]
    assert "pip install" in report["torch"]["advice"]
    assert "memory" in report
    assert "Traceback" not in done.stderr


def test_doctor_fits_a_screen(run):
    done = run("doctor")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) <= 40
    for topic in ("wkv", "torch", "processor", "memory", "auto", "compiler", "hub", "cache"):
        assert any(line.startswith(topic) for line in lines), topic
    assert "could not be checked" not in done.stdout


def test_doctor_as_json(capsys, monkeypatch):
    from wkv.cli import main

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report.keys() >= {"wkv", "torch", "memory", "auto", "world", "20b", "hub"}
    assert report["torch"]["advice"] is None
    assert "unset HF_HUB_OFFLINE" in report["hub"]["advice"]
