"""Batch files in OpenAI's format: one request per line, and one response per line.

    {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {...}}
    {"id": "...", "custom_id": "a", "response": {"status_code": 200, "request_id": "...",
     "body": {...}}, "error": null}

The requests go to the server's own application without a network, so that they are validated and
handled in the same way. Responses are written in the order in which they are finished.
"""

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO
from uuid import uuid4

import httpx
from fastapi import FastAPI

from wkv.errors import InputError
from wkv.files import read_lines
from wkv.serve.protocol.errors import ApiError

URLS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")

REQUESTS_PER_SLOT = 2
"""Requests in flight for each slot, so that the next one waits when a slot becomes free."""

BUSY_SECONDS = 0.1

LINE_START = b'{"id": "batch_req_'
"""The beginning of each response line, by which an incomplete line is recognized."""

MAX_LINE = 2**24
"""Characters of a line of requests, as many as the server accepts in the body of one."""

Json = dict[str, Any]


@dataclass(frozen=True)
class BatchLine:
    """A request of a batch file.

    Attributes:
        number: number of the line, counted from 1.
        custom_id: id that the response repeats.
        url: one of `URLS`.
        body: body of the request.
    """

    number: int
    custom_id: str
    url: str
    body: Json


def read_requests(path: Path) -> list[BatchLine]:
    """Return all requests of a batch file; blank lines are skipped.

    Raises:
        InputError: if a line is not a valid request, or repeats a `custom_id`.
    """
    lines: list[BatchLine] = []
    seen: dict[str, int] = {}
    for number, row in enumerate(read_lines(path, MAX_LINE), 1):
        if not row.strip():
            continue
        line = _parse_request(path, number, row)
        if line.custom_id in seen:
            raise InputError(
                f"{path}, line {number}: line {seen[line.custom_id]} has the same custom_id "
                f"{line.custom_id!r}; give each request its own, because responses repeat it"
            )
        seen[line.custom_id] = number
        lines.append(line)
    return lines


def finished_ids(path: Path) -> set[str]:
    """Return the ids of the responses in a file, and remove an incomplete last line from it.

    Raises:
        InputError: if the file contains anything else, or cannot be written.
    """
    if not path.exists():
        if path.parent.is_dir() and not os.access(path.parent, os.W_OK):
            raise InputError(f"{path}: the folder is read-only; name a file in another folder")
        return set()
    if not path.is_file():  # reading a device might never end
        raise InputError(f"{path}: this is not a regular file; name another output file")
    finished: set[str] = set()
    complete, rest = 0, b""
    try:
        with path.open("r+b") as file:  # it must be possible to write as well
            for number, row in enumerate(file, 1):
                if not row.endswith(b"\n"):
                    rest = row
                    break
                finished.add(_id_of_response(path, number, row))
                complete += len(row)
    except OSError as error:
        raise InputError(f"{path}: responses cannot be written here ({error})") from error
    if not rest.startswith(LINE_START[: len(rest)]):
        raise InputError(
            f"{path}: this is not a file of batch responses, and was not changed; "
            "name another output file"
        )
    if rest:
        with path.open("r+b") as file:
            file.truncate(complete)
    return finished


def _id_of_response(path: Path, number: int, row: bytes) -> str:
    try:
        line = json.loads(row)
        line["response"]["status_code"]
        return str(line["custom_id"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(
            f"{path}, line {number}: this is not a batch response ({error!r}), and the file "
            "was not changed; name another output file"
        ) from error


async def run(
    app: FastAPI,
    lines: list[BatchLine],
    out: TextIO,
    width: int,
    on_response: Callable[[Json], None],
) -> None:
    """Process `width` requests at the same time, and write each response when it is finished."""
    remaining: Iterator[BatchLine] = iter(lines)
    # The application is called directly; proxies from the environment must not be used.
    client = httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://localhost", trust_env=False
    )

    async def work() -> None:
        for line in remaining:
            response = await _process(client, line)
            out.write(json.dumps(response) + "\n")
            out.flush()
            on_response(response)

    async with client, app.router.lifespan_context(app), asyncio.TaskGroup() as workers:
        for _ in range(min(width, len(lines))):
            workers.create_task(work())


async def _process(client: httpx.AsyncClient, line: BatchLine) -> Json:
    """Return the response line of a request, which is sent again while the server is busy."""
    # json.dumps escapes lone surrogates, which httpx's own encoding refuses.
    content, headers = json.dumps(line.body), {"Content-Type": "application/json"}
    while True:
        try:
            response = await client.post(line.url, content=content, headers=headers)
            status, body = response.status_code, response.json()
        except Exception as error:  # the other requests continue
            status, body = 500, ApiError(500, f"the server failed: {error!r}").body
        if status != 429:
            break
        await asyncio.sleep(BUSY_SECONDS)
    return {
        "id": f"batch_req_{uuid4().hex}",
        "custom_id": line.custom_id,
        "response": {"status_code": status, "request_id": uuid4().hex, "body": body},
        "error": None if status == 200 else body.get("error"),
    }


def _parse_request(path: Path, number: int, row: str) -> BatchLine:
    def invalid(found: str) -> InputError:
        expected = '{"custom_id": "...", "url": "/v1/chat/completions", "body": {...}}'
        return InputError(f"{path}, line {number}: {found}; expected {expected}")

    try:
        entry = json.loads(row)
    except (ValueError, RecursionError) as error:
        raise invalid(f"this is not valid JSON ({error})") from error
    if not isinstance(entry, dict):
        raise invalid("this is not a JSON object")
    if not isinstance(entry.get("custom_id"), str) or not entry["custom_id"]:
        raise invalid("custom_id is missing or not a string")
    if entry.get("method", "POST") != "POST" or entry.get("url") not in URLS:
        raise invalid(f"the url is {entry.get('url')!r}, not one of {', '.join(URLS)}")
    body = entry.get("body")
    if not isinstance(body, dict):
        raise invalid("the body is missing or not an object")
    if body.get("stream"):
        raise invalid("responses in a file cannot be streamed")
    return BatchLine(number, entry["custom_id"], entry["url"], body)
