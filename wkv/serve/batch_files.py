"""Batch files as OpenAI has them: a request a line in, an answer a line out, at full width.

    {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {...}}
    {"id": "...", "custom_id": "a", "response": {"status_code": 200, "request_id": "...",
     "body": {...}}, "error": null}

The requests go through the server's own application, without a network, so they are checked and
answered alike. EventStream are in the order in which they were done.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO
from uuid import uuid4

from fastapi import FastAPI
from starlette.types import Message

from wkv.errors import InputError
from wkv.serve.errors import ApiError

URLS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")

AHEAD = 2
"""Requests in flight for each slot, so that a slot that falls free is taken at once."""

BUSY_SECONDS = 0.1

BEGINNING = b'{"id": "batch_req_'
"""How each line of ours begins; a line that was cut off is known by it."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """A line of a batch file.

    Attributes:
        number: counted from 1.
        custom_id: what its answer is known by.
        url: which of `URLS`.
        body: of the request.
    """

    number: int
    custom_id: str
    url: str
    body: Json


def read_lines(path: Path) -> list[Line]:
    """All lines of a batch file; blank ones are left out.

    Raises:
        InputError: for a line that is no request, or a `custom_id` that comes twice; names it.
    """
    lines: list[Line] = []
    seen: dict[str, int] = {}
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the batch file cannot be read ({error})") from error
    for number, row in enumerate(text.split("\n"), 1):
        if not row.strip():
            continue
        line = _line(path, number, row)
        if line.custom_id in seen:
            raise InputError(
                f"{path}, line {number}: custom_id {line.custom_id!r} was in line "
                f"{seen[line.custom_id]} already; answers are known by it, so give each its own"
            )
        seen[line.custom_id] = number
        lines.append(line)
    return lines


def answered(path: Path) -> set[str]:
    """The ids that a file has answers for; a last line that was cut off is taken away from it.

    Raises:
        InputError: if it holds anything else.
    """
    if not path.exists():
        return set()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: answers cannot be kept here ({error})") from error
    whole = data[: data.rfind(b"\n") + 1]
    rest = data[len(whole) :]
    if not rest.startswith(BEGINNING[: len(rest)]):
        raise InputError(f"{path}: this is no file of answers; give another, nothing was changed")
    done = set()
    for number, row in enumerate(whole.splitlines(), 1):
        try:
            answer = json.loads(row)
            done.add(str(answer["custom_id"]))
            answer["response"]["status_code"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise InputError(
                f"{path}, line {number}: this is no answer of a batch ({error!r}); give another "
                "file to write to, nothing was changed"
            ) from error
    if rest:
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return done


async def run(
    app: FastAPI, lines: list[Line], out: TextIO, width: int, told: Callable[[Json], None]
) -> None:
    """Answer lines, `width` at once, and write each answer as it is done."""
    waiting: Iterator[Line] = iter(lines)

    async def work() -> None:
        for line in waiting:
            answer = await _answer(app, line)
            out.write(json.dumps(answer) + "\n")
            out.flush()
            told(answer)

    async with app.router.lifespan_context(app), asyncio.TaskGroup() as workers:
        for _ in range(min(width, len(lines))):
            workers.create_task(work())


async def _answer(app: FastAPI, line: Line) -> Json:
    """The answer to a line; where there is no room for it now, later."""
    while True:
        try:
            status, body = await _post(app, line.url, line.body)
        except Exception as error:  # the others go on
            status, body = 500, ApiError(500, f"the server failed: {error!r}").body
        if status != 429:
            break
        await asyncio.sleep(BUSY_SECONDS)
    failed = status != 200
    return {
        "id": f"batch_req_{uuid4().hex}",
        "custom_id": line.custom_id,
        "response": {"status_code": status, "request_id": uuid4().hex, "body": body},
        "error": body.get("error") if failed else None,
    }


async def _post(app: FastAPI, url: str, body: Json) -> tuple[int, Json]:
    """Status and body of the application's answer to a request."""
    data = json.dumps(body).encode()
    parts: list[bytes] = []
    status = 500
    sent = False

    async def receive() -> Message:
        nonlocal sent
        if sent:  # the client stays and listens
            await asyncio.Event().wait()
        sent = True
        return {"type": "http.request", "body": data, "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)
        parts.append(message.get("body", b""))

    headers = [(b"content-type", b"application/json"), (b"host", b"localhost")]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": url,
        "raw_path": url.encode(),
        "query_string": b"",
        "headers": [*headers, (b"content-length", str(len(data)).encode())],
        "client": None,
        "server": None,
    }
    await app(scope, receive, send)
    return status, json.loads(b"".join(parts))


def _line(path: Path, number: int, row: str) -> Line:
    def wrong(what: str) -> InputError:
        form = '{"custom_id": "...", "url": "/v1/chat/completions", "body": {...}}'
        return InputError(f"{path}, line {number}: {what}; expected {form}")

    try:
        entry = json.loads(row)
    except (ValueError, RecursionError) as error:
        raise wrong(f"this is no JSON ({error})") from error
    if not isinstance(entry, dict):
        raise wrong("this is no JSON object")
    if not isinstance(entry.get("custom_id"), str) or not entry["custom_id"]:
        raise wrong("custom_id is missing or no text")
    if entry.get("method", "POST") != "POST" or entry.get("url") not in URLS:
        raise wrong(f"the url is {entry.get('url')!r}, not one of {', '.join(URLS)}")
    body = entry.get("body")
    if not isinstance(body, dict):
        raise wrong("the body is missing or no object")
    if body.get("stream"):
        raise wrong("an answer in a file cannot be streamed")
    return Line(number, entry["custom_id"], entry["url"], body)
