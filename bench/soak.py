"""Test a server under mixed load with random aborts for a long time.

The load consists of growing chats, completions, JSON schemas, embeddings, states, invalid bodies,
and clients that disconnect during a reply. Resource use is printed once a minute. The exit status
is 1 if memory or open files have grown since the warm-up, a slot is not free at the end, or a
request failed with a server error.
"""

import argparse
import asyncio
import random
import re
import sys
import time
from collections import Counter
from pathlib import Path

import httpx

from bench.started import started

MEGABYTE = 2**20
MORE_MEMORY = 64 * MEGABYTE
"""Accepted growth of memory in bytes after the warm-up."""

MORE_FILES = 5
WARM_SECONDS = 120.0
"""Duration of the warm-up; afterwards the cache is full, and memory should not grow."""

WORDS = ("the", "river", "was", "wide", "and", "old", "man", "sat", "by", "dog", "a", "book")


def main() -> None:
    """Run the test and print its failures."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30, help="duration (default: 30)")
    parser.add_argument("--clients", type=int, default=24, help="number of clients (default: 24)")
    parser.add_argument("--model", help="model to serve (default: the built-in one)")
    args = parser.parse_args()
    options = ["--slots", "8", "--max-queue", "16", "--cache-bytes", "32M"]
    with started(args.model, options) as server:
        failures = asyncio.run(soak(server.address, server.process.pid, args))
    status = server.process.returncode
    if status != 0:
        failures.append(f"the server exited with {status}")
    print("\n".join(failures) or "passed: memory, open files and slots are unchanged")
    sys.exit(bool(failures))


async def soak(address: str, pid: int, args: argparse.Namespace) -> list[str]:
    """Put load on the server, and return a list of failures."""
    seen: Counter[str] = Counter()
    begun = time.monotonic()
    until = begun + args.minutes * 60
    early = None
    async with httpx.AsyncClient(base_url=address, timeout=120, limits=httpx.Limits()) as http:
        while (await http.get("/health")).status_code != 200:
            await asyncio.sleep(0.1)
        clients = [asyncio.create_task(client(http, n, until, seen)) for n in range(args.clients)]
        while time.monotonic() < until:
            await asyncio.sleep(min(60, max(1, until - time.monotonic())))
            memory, files = resources(pid)
            passed = time.monotonic() - begun
            if early is None and passed >= min(WARM_SECONDS, args.minutes * 30):
                early = memory, files
            counts = " ".join(f"{name}:{count}" for name, count in sorted(seen.items()))
            print(
                f"{passed:6.0f} s  {memory / MEGABYTE:6.0f} MB  {files} files  {counts}", flush=True
            )
        await asyncio.gather(*clients)
        await asyncio.sleep(2)
        health = (await http.get("/health")).json()
    await asyncio.sleep(1)
    memory, files = resources(pid)
    failures = []
    if health["writing"] or health["reading"] or health["queued"] or health["tasks"]:
        failures.append(f"not all slots are free: {health}")
    if early is not None and memory > early[0] + MORE_MEMORY:
        failures.append(f"memory grew from {early[0] / MEGABYTE:.0f} to {memory / MEGABYTE:.0f} MB")
    if early is not None and files > early[1] + MORE_FILES:
        failures.append(f"open files grew from {early[1]} to {files}")
    failures += [
        f"{count} responses had the status {name}" for name, count in seen.items() if name[0] == "5"
    ]
    return failures


def resources(pid: int) -> tuple[int, int]:
    """Return the resident bytes and the number of open files of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    resident = int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024
    return resident, len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def client(http: httpx.AsyncClient, number: int, until: float, seen: Counter[str]) -> None:
    """Send random requests one after another; some are invalid, and some are aborted."""
    chance = random.Random(number)
    history: list[dict[str, str]] = []
    while time.monotonic() < until:
        path, body = request(chance, history)
        leaves = chance.random() < 0.2
        try:
            if body.get("stream"):
                await streamed(http, path, body, chance.randrange(12) if leaves else None, seen)
            elif leaves:
                await asyncio.wait_for(http.post(path, json=body), chance.random() * 0.3)
            else:
                answer = await http.post(path, json=body)
                seen[str(answer.status_code)] += 1
                if answer.status_code == 200 and path.endswith("chat/completions"):
                    text = answer.json()["choices"][0]["message"]["content"]
                    history += [body["messages"][-1], {"role": "assistant", "content": text or "-"}]
                    del history[: max(0, len(history) - 20)]
                if answer.status_code == 201:
                    await http.delete(f"/v1/states/{answer.json()['id']}")
        except TimeoutError:
            seen["left"] += 1
        if chance.random() < 0.1:
            await asyncio.sleep(chance.random())


async def streamed(
    http: httpx.AsyncClient, path: str, body: dict, leave: int | None, seen: Counter[str]
) -> None:
    """Read a stream to its end, or disconnect after `leave` lines."""
    async with http.stream("POST", path, json=body) as answer:
        lines = 0
        async for line in answer.aiter_lines():
            lines += 1
            if line.startswith('data: {"error"'):
                seen["5xx in a stream"] += 1
            if leave is not None and lines > leave:
                seen["left"] += 1
                return
        seen[str(answer.status_code)] += 1


def request(chance: random.Random, history: list[dict[str, str]]) -> tuple[str, dict]:
    """Return the path and body of a random request."""
    text = " ".join(chance.choices(WORDS, k=chance.choice((3, 10, 40, 600))))
    sampling = {"max_tokens": chance.choice((1, 8, 60)), "temperature": 1, "top_p": 0.9}
    kind = chance.random()
    if kind < 0.45:
        messages = [*history, {"role": "user", "content": text}]
        return "/v1/chat/completions", {"messages": messages, "stream": kind < 0.2, **sampling}
    if kind < 0.65:
        choices = chance.choice((1, 1, 3))
        return "/v1/completions", {"prompt": text, "n": choices, "stream": kind < 0.55, **sampling}
    if kind < 0.75:
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema(chance)}}
        messages = [{"role": "user", "content": text}]
        return "/v1/chat/completions", {"messages": messages, "response_format": form, **sampling}
    if kind < 0.85:
        return "/v1/embeddings", {"input": [text, text[:20]]}
    if kind < 0.9:
        return "/v1/states", {"prompt": text}
    return "/v1/chat/completions", {"messages": [{"role": "robot", "content": text}]}


def schema(chance: random.Random) -> dict:
    """Return a random JSON schema, of which few repeat."""
    name = f"field_{chance.randrange(10_000)}"
    kinds = ({"type": "integer"}, {"type": "boolean"}, {"enum": ["red", "green"]})
    properties = {name: chance.choice(kinds)}
    return {
        "type": "object",
        "properties": properties,
        "required": [name],
        "additionalProperties": False,
    }


if __name__ == "__main__":
    main()
