"""A stand-in for `wkv serve`: the page's files as they are, and answers laid out beforehand."""

import json
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

PAGE = Path(__file__).parents[2] / "wkv/page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
SAMPLING = {
    "temperature": 0,
    "top_p": 0.85,
    "top_k": 0,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "penalty_decay": 0.996,
}
MODEL = {
    "id": "demo-rwkv7",
    "object": "model",
    "created": 0,
    "owned_by": "wkv",
    "wkv": {
        "generation": "7",
        "n_layer": 6,
        "n_embd": 192,
        "vocab_size": 2048,
        "strategy": "cpu fp32",
        "engine": "native",
        "state_bytes": 304128,
        "sampling": SAMPLING,
        "max_tokens": 1000,
        "presets": {
            "chat": {**SAMPLING, "temperature": 1.0, "top_p": 0.3, "presence_penalty": 0.5},
            "creative": {**SAMPLING, "temperature": 1.2, "top_p": 0.7, "presence_penalty": 0.4},
        },
    },
}


@dataclass
class Answer:
    """The response to one request.

    Attributes:
        text: what is said, in pieces of a few letters.
        reasoning: what is thought before.
        finish: the reason of the end.
        delay: seconds before each piece.
        pause: pieces after which nothing comes until `go` is called; 0 for no pause.
        error: a message in place of the end.
        cut: the connection ends in place of the end.
        status: of a refusal, with `text` as its message; 200 for an answer.
        headers: of a refusal.
        split: bytes in one write, so that a character may be cut; 0 for whole events.
    """

    text: str = ""
    reasoning: str = ""
    finish: str = "stop"
    delay: float = 0.0
    pause: int = 0
    error: str = ""
    cut: bool = False
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    split: int = 0


class PageServer(ThreadingHTTPServer):
    """Serves the page and what `say` has laid out; an answer that is not laid out is an echo.

    Attributes:
        asked: bodies of the requests for completions, in their order.
        key: what must be sent as a bearer's token, or "".
        stopped: whether it serves no more.
        gone: how many streams were left before their end.
        states: the kept states, by id.
    """

    daemon_threads = True

    def __init__(self, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.stopped = False
        self._lock = threading.Lock()
        self._going = threading.Event()
        self.reset()

    def reset(self):
        """Forget everything."""
        self.go()
        self.asked = []
        self.key = ""
        self.gone = 0
        self.states = {}
        self._answers = []
        self._going = threading.Event()

    def handle_error(self, request, client_address):
        """A browser may leave before an answer's end; anything else is told."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def say(self, text="", **more):
        """Lay out the next answer."""
        self._answers.append(Answer(text, **more))

    def go(self):
        """Let an answer that pauses go on."""
        self._going.set()

    def wait(self):
        """Wait for `go`, and then no more."""
        going = self._going
        going.wait(20)
        going.clear()

    def answer_to(self, body):
        """The answer to a body: the next that is laid out, or an echo."""
        with self._lock:
            self.asked.append(body)
            if self._answers:
                return self._answers.pop(0)
        if "prompt" in body:
            return Answer(" and so on.")
        return Answer(f"You said: {body['messages'][-1]['content']}")

    def keep_state(self, body, header):
        """A new state; its tokens are the words that were read, its name is in a header."""
        words = " ".join(m["content"] for m in body.get("messages", [])) or body.get("prompt", "")
        state_id = f"state-{len(self.states) + 1:04d}"
        self.states[state_id] = {
            "id": state_id,
            "object": "state",
            "name": unquote(header or ""),
            "tokens": len(words.split()),
            "bytes": 304128,
            "created": 1790000000 + len(self.states),
        }
        return self.states[state_id]

    def start(self):
        """Serve from a thread, and come back."""
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self):
        self.stopped = True
        self.go()
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def parse_request(self):
        """No connection outlives a server that has stopped."""
        if self.server.stopped:
            self.close_connection = True
            return False
        return super().parse_request()

    def do_GET(self):
        path = self.path.partition("?")[0]
        name = "index.html" if path == "/" else path.removeprefix("/page/")
        if "/" not in name and (PAGE / name).is_file():
            keep = {"Cache-Control": "max-age=600"}
            self._send(200, (PAGE / name).read_bytes(), TYPES[Path(name).suffix], keep)
        elif not self._refused():
            self._answer_get(path)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self._refused():
            return
        name = self.headers.get("X-State-Name")
        if self.path == "/v1/states/upload":
            self._json(self.server.keep_state({"prompt": f"a file of {len(body)} bytes"}, name))
        elif self.path == "/v1/states":
            self._json(self.server.keep_state(json.loads(body), name))
        else:
            self._complete(json.loads(body))

    def do_DELETE(self):
        if self._refused():
            return
        name = self.path.rpartition("/")[2]
        self.server.states.pop(name, None)
        self._json({"id": name, "object": "state", "deleted": True})

    def _answer_get(self, path):
        if path == "/v1/models":
            self._json({"object": "list", "data": [MODEL]})
        elif path == "/v1/states":
            self._json({"object": "list", "data": list(self.server.states.values())})
        elif path.startswith("/v1/states/") and path.endswith("/content"):
            self._send(200, b"the bytes of a state", "application/octet-stream")
        else:
            self._error(404, f"there is no {path}")

    def _complete(self, body):
        answer = self.server.answer_to(body)
        if answer.status != 200:
            self._error(answer.status, answer.text, answer.headers)
            return
        self.close_connection = True
        self.send_response(200)
        self.send_header("Connection", "close")
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.end_headers()
        try:
            for number, event in enumerate(events(answer, "prompt" in body)):
                time.sleep(answer.delay)
                if answer.pause and number == answer.pause + 1:
                    self.server.wait()
                self._write(f"data: {event}\n\n".encode(), answer.split)
        except OSError:
            self.server.gone += 1

    def _write(self, data, split):
        for at in range(0, len(data), split or len(data)):
            self.wfile.write(data[at : at + (split or len(data))])
            self.wfile.flush()

    def _refused(self):
        key = self.server.key
        if not key or self.headers.get("Authorization") == f"Bearer {key}":
            return False
        self._error(401, "this server asks for a key")
        return True

    def _error(self, status, message, headers=None):
        error = {"message": message, "type": "error", "param": None, "code": None}
        self._json({"error": error}, status, headers)

    def _json(self, value, status=200, headers=None):
        self._send(status, json.dumps(value).encode(), "application/json", headers)

    def _send(self, status, data, kind, headers=None):
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Say nothing."""


def events(answer, is_raw):
    """The data of the events of an answer."""

    def chunk(delta, finish=None):
        said = {"text": delta.get("content", "")} if is_raw else {"delta": delta}
        choice = {"index": 0, **said, "finish_reason": finish}
        return json.dumps({"choices": [choice]}, ensure_ascii=False)

    thoughts, words = pieces(answer.reasoning), pieces(answer.text)
    yield chunk({"role": "assistant"})
    yield from (chunk({"reasoning": piece}) for piece in thoughts)
    yield from (chunk({"content": piece}) for piece in words)
    if answer.cut:
        return
    if answer.error:
        yield json.dumps({"error": {"message": answer.error, "type": "server_error"}})
        return
    yield chunk({}, answer.finish)
    count = len(thoughts) + len(words)
    usage = {"prompt_tokens": 120, "completion_tokens": count, "total_tokens": 120 + count}
    yield json.dumps(
        {"choices": [], "usage": {**usage, "prompt_tokens_details": {"cached_tokens": 96}}}
    )
    yield "[DONE]"


def pieces(text, length=4):
    """A text in pieces of a few letters."""
    return [text[at : at + length] for at in range(0, len(text), length)]
