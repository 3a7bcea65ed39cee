"""Serve a model over HTTP with an OpenAI-compatible API and a chat page.

Each option can also be set by an environment variable with the prefix WKV_SERVE_, such as
WKV_SERVE_PORT=8080.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from wkv.cli.notices import notice
from wkv.cli.options import (
    NAMED_PATH,
    add_model,
    add_speculation,
    add_states,
    find_model,
    load_model,
    load_speculation,
    read_states,
)

if TYPE_CHECKING:
    from fastapi import FastAPI

SUMMARY = "serve an OpenAI-compatible API and a chat page"

PREFIX = "WKV_SERVE_"

LOCAL = ("127.0.0.1", "localhost", "::1")
"""Addresses that can only be reached from this machine."""

OFF = ("", "0", "false", "no", "off")

SUFFIXES = {"k": 10, "m": 20, "g": 30, "t": 40}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `wkv serve` to the parser."""
    add_model(parser, several=True)
    add_states(parser)
    add_speculation(parser)
    add = parser.add_argument
    host = "address to listen on (default: 127.0.0.1, reachable from this machine only)"
    add("--host", default="127.0.0.1", help=host)
    add("--port", type=int, default=8000, help="port, or 0 for any free port (default: 8000)")
    name = "model name that clients see (default: the name of the file)"
    add("--name", metavar="NAME", help=name)
    key = "require this API key; may be repeated to accept several keys"
    add("--api-key", action="append", metavar="KEY", help=key)
    allowed = "also accept requests whose Host header has this name; may be repeated"
    add("--allow-host", action="append", metavar="NAME", help=allowed)
    origin = "let browsers send requests from this website, such as https://example.org, or from "
    origin += "all (*); may be repeated"
    add("--allow-origin", action="append", metavar="ORIGIN", help=origin)
    slots = "number of sequences to generate at the same time (default: 16)"
    add("--slots", type=int, default=16, metavar="N", help=slots)
    queue = "number of requests that may wait for a slot (default: 64)"
    add("--max-queue", type=int, default=64, metavar="N", help=queue)
    memory = "memory for cached states, such as 512M (default: 1G)"
    add("--cache-bytes", type=_bytes, default=2**30, metavar="SIZE", help=memory)
    folder = "folder to store states and responses in, so that they survive a restart"
    add("--cache-dir", type=Path, metavar="DIR", help=folder)
    disk = "disk space for --cache-dir (default: 10G)"
    add("--disk-bytes", type=_bytes, default=10 * 2**30, metavar="SIZE", help=disk)
    body = "largest accepted request body (default: 16M)"
    add("--max-body", type=_bytes, default=2**24, metavar="SIZE", help=body)
    tokens = "largest number of tokens in a reply (default: 131072)"
    add("--max-tokens", type=int, default=2**17, metavar="N", help=tokens)
    idle = "close a stream after S seconds in which the client reads nothing (default: 60)"
    add("--idle-seconds", type=float, default=60, metavar="S", help=idle)
    drain = "on shutdown, give running answers S seconds to finish (default: 30)"
    add("--drain-seconds", type=float, default=30, metavar="S", help=drain)
    strict = "refuse fields of requests that have no effect, instead of reporting them in a header"
    add("--strict", action="store_true", help=strict)
    add("--ray", action="store_true", help="run several replicas on Ray Serve")
    replicas = "number of replicas with --ray (default: 2)"
    add("--replicas", type=int, default=2, metavar="N", help=replicas)
    cpus = "CPUs of each replica with --ray (default: 1)"
    add("--replica-cpus", type=float, default=1, metavar="N", help=cpus)
    gpus = "GPUs of each replica with --ray (default: 0)"
    add("--replica-gpus", type=float, default=0, metavar="N", help=gpus)
    _read_environment(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until the process receives a signal to stop."""
    _check(args)
    with needs_serve():
        from wkv.serve.run import bind, run

    if args.ray:
        return _run_on_ray(args)
    # Before the model is loaded, so that a port in use is reported without delay.
    listening = bind(args.host, args.port, args.idle_seconds)
    with listening:
        app = _build(args)
        name, port = app.state.service.settings.name, listening.getsockname()[1]
        run(app, listening, lambda: _greet(name, args, port), notice)
    return 0


def _build(args: argparse.Namespace) -> FastAPI:
    """Load the model and return the application that the options describe."""
    from wkv.serve.app import create_app
    from wkv.serve.service import Limits, ServerSettings

    model = load_model(args)
    states = read_states(args, model)
    start = states.pop(None, None)
    settings = ServerSettings(
        args.name or (model.path.stem if model.path.is_file() else model.path.name),
        keys=tuple(args.api_key or ()),
        hosts=_hosts(args),
        origins=tuple(args.allow_origin or ()),
        max_body=args.max_body,
        idle_seconds=args.idle_seconds,
        drain_seconds=args.drain_seconds,
        max_tokens=args.max_tokens,
        states={str(name): state for name, state in states.items()},
        start=start,
        strict=args.strict,
    )
    limits = Limits(args.slots, args.max_queue, args.cache_bytes, args.cache_dir, args.disk_bytes)
    return create_app(model, settings, limits, load_speculation(args, model))


def _run_on_ray(args: argparse.Namespace) -> int:
    """Serve with several replicas that share their states in a folder."""
    from wkv.serve.ray_cluster import Cluster, require_token, run

    if args.cache_dir is None:
        args.cache_dir = Path.home() / ".wkv" / "serve"
        notice(
            f"the replicas share states in {args.cache_dir}; to use several machines, name a "
            "folder that all of them can access with --cache-dir"
        )
    args.cache_dir = args.cache_dir.absolute()  # replicas have other working directories
    if args.model is not None and Path(args.model).exists():
        args.model = str(Path(args.model).absolute())
    args.adapter = [_absolute(text) for text in args.adapter or ()]
    args.state = [_absolute(text) for text in args.state or ()]
    if args.draft is not None and Path(args.draft).exists():
        args.draft = str(Path(args.draft).absolute())
    find_model(args.model)  # download it once, before every replica tries to
    find_model(args.draft)
    args.threads = args.threads or max(1, round(args.replica_cpus))
    is_new = not os.environ.get("RAY_ADDRESS")
    cluster = Cluster(
        replicas=args.replicas,
        slots=args.slots,
        queue=args.max_queue,
        cpus=args.replica_cpus,
        gpus=args.replica_gpus,
        host=args.host,
        port=args.port,
        drain_seconds=args.drain_seconds,
        is_new=is_new,
        has_token=is_new and require_token(os.environ, Path.home()),
    )
    args.usage_error = None  # a method of the parser, which Ray cannot serialize
    name = args.name or "a model"
    run(lambda: _build(args), cluster, lambda: _greet(name, args, args.port), notice)
    return 0


def _absolute(text: str) -> str:
    """Return PATH or NAME=PATH with an absolute path."""
    match = NAMED_PATH.fullmatch(text)
    name, path = (f"{match['name']}=", match["path"]) if match else ("", text)
    return f"{name}{Path(path).expanduser().absolute()}"


@contextmanager
def needs_serve() -> Iterator[None]:
    """Replace a ModuleNotFoundError in this context by an error that says what to install.

    Raises:
        MissingExtraError: if an import in the context fails.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        from wkv.errors import MissingExtraError, install_command

        message = f"{error.name} is not installed; run: {install_command('serve')}"
        raise MissingExtraError(message) from error


def _greet(name: str, args: argparse.Namespace, port: int) -> None:
    host = "127.0.0.1" if args.host in ("0.0.0.0", "::") else args.host
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    key = " -H 'Authorization: Bearer KEY'" if args.api_key else ""
    print(f"serving {name}")
    print(f"chat page  {address}/")
    print(f"API        {address}/v1")
    print(
        f"try        curl {address}/v1/chat/completions{key} -H 'Content-Type: application/json' "
        """-d '{"messages": [{"role": "user", "content": "Hello"}]}'"""
    )
    sys.stdout.flush()
    if args.host not in LOCAL and not args.api_key:
        notice("everybody on the network can use this server; see --api-key to restrict access")


def _hosts(args: argparse.Namespace) -> tuple[str, ...]:
    """Return the accepted names in Host headers; empty means any name.

    A server that listens on all addresses cannot know its own names, so it accepts any.
    """
    local = ("127.0.0.1", "localhost", "[::1]")  # in the notation of Host headers
    if args.allow_host:
        return (*local, args.host, *args.allow_host)
    return local if args.host in LOCAL else ()


def _check(args: argparse.Namespace) -> None:
    """Exit with a usage error if the value of an option is out of range."""
    least: dict[str, float] = {
        "slots": 1,
        "max_body": 1,
        "max_tokens": 1,
        "max_queue": 0,
        "replicas": 1,
    }
    least |= {"cache_bytes": 0, "disk_bytes": 0, "replica_cpus": 0, "replica_gpus": 0}
    least |= {"idle_seconds": 0.001, "drain_seconds": 0, "port": 0}
    most = {"idle_seconds": 1e6, "drain_seconds": 1e6, "port": 65535}
    for name, low in least.items():
        high = most.get(name, math.inf)
        if not low <= getattr(args, name) <= high:  # this form also rejects NaN
            limits = f"from {low} to {high:g}" if name in most else f"at least {low}"
            args.usage_error(f"--{name.replace('_', '-')} must be {limits}")
    if not args.host:
        args.usage_error("--host must be an address, such as 127.0.0.1 or 0.0.0.0")
    for key in args.api_key or ():
        if not key.isascii() or not key.isprintable() or not key.strip():
            args.usage_error("--api-key must be printable ASCII, because HTTP headers contain it")


def _bytes(text: str) -> int:
    """Parse a number of bytes, such as 1000, 512M or 2G; used by argparse."""
    digits = text.strip().lower().removesuffix("b").removesuffix("i")
    shift = SUFFIXES.get(digits[-1:], 0)
    try:
        return int(float(digits[:-1] if shift else digits) * 2**shift)
    except (ValueError, OverflowError):
        message = f"{text!r} is not a number of bytes; give one such as 1000, 512M or 1.5G"
        raise argparse.ArgumentTypeError(message) from None


def _read_environment(parser: argparse.ArgumentParser) -> None:
    """Replace the defaults of all options by environment variables; argparse parses their text."""
    for action in parser._actions:
        for option in action.option_strings:
            value = os.environ.get(PREFIX + option.removeprefix("--").replace("-", "_").upper())
            if value is None or not option.startswith("--") or action.dest == "help":
                continue
            # An empty key must be rejected later, rather than start a server without a key.
            if not value and action.dest != "api_key":
                continue
            if isinstance(action, argparse._AppendAction):
                action.default = value.split(",")
            else:
                is_switch = action.nargs == 0
                action.default = value.lower() not in OFF if is_switch else value
