"""Serve a model over HTTP: an OpenAI-compatible interface, and a chat page.

Every option is also read from the environment, as WKV_SERVE_ and its name: WKV_SERVE_PORT=8080.
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
from wkv.cli.options import add_model, find_model, load_model

if TYPE_CHECKING:
    from fastapi import FastAPI

SUMMARY = "serve an OpenAI-compatible API and a chat page"

PREFIX = "WKV_SERVE_"

LOCAL = ("127.0.0.1", "localhost", "::1")
"""Addresses that only this machine reaches."""

OFF = ("", "0", "false", "no", "off")

SUFFIXES = {"k": 10, "m": 20, "g": 30, "t": 40}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `wkv serve`."""
    add_model(parser)
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    add("--port", type=int, default=8000, help="0 takes any that is free (default: 8000)")
    add("--name", metavar="NAME", help="the model's name to clients; default: its file's")
    add(
        "--api-key", action="append", metavar="KEY", help="let only its holders in; may be repeated"
    )
    add(
        "--allow-host", action="append", metavar="NAME", help="a host name that requests may be for"
    )
    add("--slots", type=int, default=16, metavar="N", help="sequences at once (default: 16)")
    add(
        "--max-queue",
        type=int,
        default=64,
        metavar="N",
        help="requests that may wait (default: 64)",
    )
    add("--cache-bytes", type=_bytes, default=2**30, metavar="N", help="of states (default: 1G)")
    add("--cache-dir", type=Path, metavar="DIR", help="keep states here, also after the end")
    add("--disk-bytes", type=_bytes, default=10 * 2**30, metavar="N", help="there (default: 10G)")
    add("--max-body", type=_bytes, default=2**24, metavar="N", help="of a request (default: 16M)")
    add("--max-tokens", type=int, default=2**17, metavar="N", help="of a reply (default: 131072)")
    add(
        "--idle-seconds", type=float, default=60, metavar="S", help="for slow readers (default: 60)"
    )
    add("--drain-seconds", type=float, default=30, metavar="S", help="to end in (default: 30)")
    add("--ray", action="store_true", help="on Ray Serve, as several replicas")
    add("--replicas", type=int, default=2, metavar="N", help="with --ray (default: 2)")
    add("--replica-cpus", type=float, default=1, metavar="N", help="of each (default: 1)")
    add("--replica-gpus", type=float, default=0, metavar="N", help="of each (default: 0)")
    _read_environment(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until the process is told to stop."""
    _check(args)
    with needs_serve():
        from wkv.serve.run import bind, run

    if args.ray:
        return _run_on_ray(args)
    listening = bind(
        args.host, args.port, args.idle_seconds
    )  # before the model is loaded: a taken port is told at once
    with listening:
        app = _build(args)
        name, port = app.state.service.settings.name, listening.getsockname()[1]
        run(app, listening, lambda: _greet(name, args, port), notice)
    return 0


def _build(args: argparse.Namespace) -> FastAPI:
    """The application that the options ask for."""
    from wkv.serve.app import Limits, create_app
    from wkv.serve.service import Settings

    model = load_model(args)
    settings = Settings(
        args.name or (model.path.stem if model.path.is_file() else model.path.name),
        keys=tuple(args.api_key or ()),
        hosts=_hosts(args),
        max_body=args.max_body,
        idle_seconds=args.idle_seconds,
        drain_seconds=args.drain_seconds,
        max_tokens=args.max_tokens,
    )
    room = Limits(args.slots, args.max_queue, args.cache_bytes, args.cache_dir, args.disk_bytes)
    return create_app(model, settings, room)


def _run_on_ray(args: argparse.Namespace) -> int:
    """Serve as replicas; what they share lies in a folder."""
    from wkv.serve.ray_cluster import Cluster, run

    if args.cache_dir is None:
        args.cache_dir = Path.home() / ".wkv" / "serve"
        notice(f"states are shared in {args.cache_dir}; on several machines give --cache-dir")
    args.cache_dir = args.cache_dir.absolute()  # replicas run in folders of their own
    if args.model is not None and Path(args.model).exists():
        args.model = str(Path(args.model).absolute())
    find_model(args.model)  # fetched once, before each replica looks for it
    args.threads = args.threads or max(1, round(args.replica_cpus))
    cluster = Cluster(
        replicas=args.replicas,
        slots=args.slots,
        queue=args.max_queue,
        cpus=args.replica_cpus,
        gpus=args.replica_gpus,
        host=args.host,
        port=args.port,
        drain_seconds=args.drain_seconds,
    )
    args.usage_error = None  # a method of the parser, which need not travel
    run(lambda: _build(args), cluster, lambda: _greet(args.name or "a model", args, args.port))
    return 0


@contextmanager
def needs_serve() -> Iterator[None]:
    """Say how to install what an import within misses."""
    try:
        yield
    except ModuleNotFoundError as error:
        from wkv.errors import MissingExtraError

        what = f"{error.name} is not installed; pip install 'wkv[serve]'"
        raise MissingExtraError(what) from error


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
        notice("this server is open to the network, and everybody may use it; see --api-key")


def _hosts(args: argparse.Namespace) -> tuple[str, ...]:
    """Names that requests may be for; a server on all addresses cannot know its own."""
    local = ("127.0.0.1", "localhost", "[::1]")  # as a Host header has them
    if args.allow_host:
        return (*local, args.host, *args.allow_host)
    return local if args.host in LOCAL else ()


def _check(args: argparse.Namespace) -> None:
    """Refuse values that cannot work."""
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
        if not low <= getattr(args, name) <= high:  # so written, a NaN is wrong too
            limits = f"from {low} to {high:g}" if name in most else f"at least {low}"
            args.usage_error(f"--{name.replace('_', '-')} must be {limits}")
    if not args.host:
        args.usage_error("--host must be an address, such as 127.0.0.1 or 0.0.0.0")
    for key in args.api_key or ():
        if not key.isascii() or not key.isprintable() or not key.strip():
            args.usage_error("--api-key must be printable ASCII: it travels in a header")


def _bytes(text: str) -> int:
    """A number of bytes, such as 1000, 512M or 2G."""
    digits = text.strip().lower().removesuffix("b").removesuffix("i")
    shift = SUFFIXES.get(digits[-1:], 0)
    try:
        return int(float(digits[:-1] if shift else digits) * 2**shift)
    except (ValueError, OverflowError):
        what = f"{text!r} is no number of bytes; give one such as 1000, 512M or 1.5G"
        raise argparse.ArgumentTypeError(what) from None


def _read_environment(parser: argparse.ArgumentParser) -> None:
    """Let the environment say what the command line does not; argparse reads its texts."""
    for action in parser._actions:
        for option in action.option_strings:
            value = os.environ.get(PREFIX + option.removeprefix("--").replace("-", "_").upper())
            if value is None or not option.startswith("--") or action.dest == "help":
                continue
            if not value and action.dest != "api_key":  # an empty key must not open the server
                continue
            if isinstance(action, argparse._AppendAction):
                action.default = value.split(",")
            else:
                is_switch = action.nargs == 0
                action.default = value.lower() not in OFF if is_switch else value
