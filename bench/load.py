"""Measure `wkv serve` under load, and the effect of its state cache on a long conversation.

For each model a server is started. The first part measures requests and tokens per second, the time
to the first token, and the CPU time that the server spends on a token, for several numbers of
concurrent clients. The CPU time is split in the event loop's thread and all others; on a machine
that also runs other programs, it varies less than the speed. The second part measures the last turn
of a conversation of ten turns and about 4,000 tokens, half of them replies, with and without the
cache.
"""

import argparse
import asyncio
import json
import statistics
import time

import httpx
import psutil

from bench.started import Started, started

CLIENTS = (1, 4, 16, 64, 256)
TURNS = 10
WORDS = ("river", "stone", "window", "garden", "letter", "morning", "silver", "forest", "candle")


def main() -> None:
    """Measure each model and print its table."""
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__)
    add = parser.add_argument
    add("models", nargs="*", metavar="MODEL", help="models (default: the built-in one)")
    add("--strategy", default="auto", help="strategy of the models (default: auto)")
    add("--slots", type=int, default=16, help="slots of the server (default: 16)")
    clients = f"numbers of clients (default: {' '.join(map(str, CLIENTS))})"
    add("--clients", type=int, nargs="+", default=CLIENTS, metavar="N", help=clients)
    add("--no-conversation", action="store_true", help="leave out the second part")
    add("--max-tokens", type=int, default=64, help="tokens of each reply (default: 64)")
    add("--requests", type=int, default=2, help="requests of each client (default: 2)")
    top_p = "also measure sampling with temperature 1 and this top_p, after greedy decoding"
    add("--top-p", type=float, nargs="+", default=[], metavar="P", help=top_p)
    add("--rounds", type=int, default=1, help="repetitions of each line (default: 1)")
    turn = "tokens of each message of the long conversation (default: 200)"
    add("--turn-tokens", type=int, default=200, help=turn)
    args = parser.parse_args()
    for model in args.models or [None]:
        print(f"\n{model or 'the built-in model'}, {args.strategy}, {args.slots} slots")
        with started(model, options(args)) as server:
            asyncio.run(under_load(server, args))
        if args.no_conversation:
            continue
        with_cache, cached = conversation(model, args, [])
        without, _ = conversation(model, args, ["--cache-bytes", "0"])
        print(
            f"turn {TURNS} of a long conversation: first token after {with_cache * 1e3:.0f} ms "
            f"with {cached} cached tokens, {without * 1e3:.0f} ms without the cache "
            f"({without / with_cache:.1f} x)"
        )


def options(args: argparse.Namespace) -> list[str]:
    """Return the command-line options of the servers."""
    return ["--strategy", args.strategy, "--slots", str(args.slots), "--max-queue", "1000"]


async def under_load(server: Started, args: argparse.Namespace) -> None:
    """Measure each number of clients and print its line."""
    print(
        f"{'clients':>8}{'top_p':>8}{'requests/s':>12}{'tokens/s':>10}{'first token p50':>17}"
        f"{'p99':>10}{'CPU ms/token: loop':>20}{'others':>8}"
    )
    async with httpx.AsyncClient(
        base_url=server.address, timeout=600, limits=httpx.Limits()
    ) as http:
        await ask(http, "warm up", args.max_tokens)
        for count in args.clients:
            speeds: dict[float | None, list[float]] = {}
            for _ in range(args.rounds):
                for top_p in (None, *args.top_p):
                    speed = await measured(http, server, count, top_p, args)
                    speeds.setdefault(top_p, []).append(speed)
            greedy = statistics.median(speeds.pop(None))
            for top_p, found in speeds.items():
                share = statistics.median(found) / greedy
                print(f"{count:>8} clients: top_p {top_p:g} has {share:.2f} of the greedy tokens/s")


async def measured(
    http: httpx.AsyncClient,
    server: Started,
    count: int,
    top_p: float | None,
    args: argparse.Namespace,
) -> float:
    """Measure a number of clients, print its line, and return the tokens per second.

    Without `top_p`, decoding is greedy.
    """
    before, begun = cpu_seconds(server), time.perf_counter()
    groups = await asyncio.gather(*(client(http, n, count, top_p, args) for n in range(count)))
    seconds = time.perf_counter() - begun
    after = cpu_seconds(server)
    first = sorted(one for group in groups for one, _ in group)
    tokens = sum(number for group in groups for _, number in group)
    p99 = first[min(len(first) - 1, int(0.99 * len(first)))]
    loop, others = ((b - a) / tokens * 1e3 for a, b in zip(before, after, strict=True))
    shown = "greedy" if top_p is None else f"{top_p:g}"
    print(
        f"{count:>8}{shown:>8}{len(first) / seconds:>12.2f}{tokens / seconds:>10.0f}"
        f"{statistics.median(first) * 1e3:>14.0f} ms{p99 * 1e3:>7.0f} ms"
        f"{loop:>20.3f}{others:>8.3f}",
        flush=True,
    )
    return tokens / seconds


def cpu_seconds(server: Started) -> tuple[float, float]:
    """Return the CPU time of the server's first thread, its event loop, and of all others."""
    pid = server.process.pid
    times = {one.id: one.user_time + one.system_time for one in psutil.Process(pid).threads()}
    loop = times.pop(pid, 0.0)
    return loop, sum(times.values())


async def client(
    http: httpx.AsyncClient,
    number: int,
    count: int,
    top_p: float | None,
    args: argparse.Namespace,
) -> list[tuple[float, int]]:
    """Send the requests of one client, and return the time to the first token and the tokens."""
    done = []
    for request in range(args.requests):
        text = " ".join(WORDS[(number * 7 + request + i * (count + 1)) % 9] for i in range(60))
        prompt = f"{count} {number} {request} {text}"
        done.append(await ask(http, prompt, args.max_tokens, top_p))
    return done


async def ask(
    http: httpx.AsyncClient, prompt: str, max_tokens: int, top_p: float | None = None
) -> tuple[float, int]:
    """Stream one completion, and return the time to the first token and the number of tokens."""
    sampling = {"temperature": 0} if top_p is None else {"temperature": 1, "top_p": top_p}
    body = {
        "prompt": prompt,
        "max_tokens": max_tokens,
        **sampling,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    begun = time.perf_counter()
    first, tokens = 0.0, 0
    async with http.stream("POST", "/v1/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                first = first or time.perf_counter() - begun
                usage = json.loads(line.removeprefix("data: ")).get("usage")
                tokens = usage["completion_tokens"] if usage else tokens
    return first, tokens


def conversation(model: str | None, args: argparse.Namespace, more: list[str]) -> tuple[float, int]:
    """Return the seconds to the first token of the last turn, and its number of cached tokens."""
    messages: list[dict[str, str]] = []
    with (
        started(model, [*options(args), *more]) as server,
        httpx.Client(base_url=server.address, timeout=600) as http,
    ):
        for turn in range(TURNS):
            count = 0
            text = ""
            while count < args.turn_tokens:
                text += f"{turn} {WORDS[(count // 3) % 9]} and the {WORDS[(count // 9) % 9]}. "
                answer = http.post("/tokenize", json={"content": text})
                count = answer.json()["count"]
            messages.append({"role": "user", "content": text.strip()})
            body = {"messages": messages, "max_tokens": args.turn_tokens, "ignore_eos": True}
            body |= {"temperature": 0, "stream": True}
            body["stream_options"] = {"include_usage": True}
            begun, first, reply, usage = time.perf_counter(), 0.0, "", None
            with http.stream("POST", "/v1/chat/completions", json=body) as answer:
                for line in answer.iter_lines():
                    if not line.startswith("data: {"):
                        continue
                    chunk = json.loads(line.removeprefix("data: "))
                    usage = chunk.get("usage") or usage
                    for choice in chunk["choices"]:
                        if choice["delta"].get("content"):
                            first = first or time.perf_counter() - begun
                            reply += choice["delta"]["content"]
            messages.append({"role": "assistant", "content": reply or "-"})
    return first, usage["prompt_tokens_details"]["cached_tokens"]


if __name__ == "__main__":
    main()
