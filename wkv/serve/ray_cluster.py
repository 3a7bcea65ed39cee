"""The application on Ray Serve: several replicas, on one machine or on a cluster.

Each replica is a whole server. The states and replies that a conversation needs are in a folder
that all replicas share, under digests of their content. So any replica can handle any turn, and the
loss of one ends no conversation. Keeping a session on one replica is only faster.

Needs `pip install 'wkv[ray]'`.
"""

import logging
import secrets
import signal
import threading
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from wkv.errors import MissingExtraError, StateError, install_command
from wkv.files import atomic_write, write_errors

RETRY_SECONDS = 2

TOKEN_FILE = Path(".ray", "auth_token")
"""The file in the home directory in which Ray's own commands find the token of a cluster."""

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
"""Environment variables of Ray, which has no other setting for its authentication."""

QUIET = {"log_level": "WARNING", "enable_access_log": False}

ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
"""Keeps requests with the same `X-Session-Id` on one replica."""


@dataclass(frozen=True)
class Cluster:
    """The distribution of an application over replicas.

    Attributes:
        replicas: number of servers.
        slots: number of sequences that each replica runs at the same time.
        queue: number of requests that may wait for a replica.
        cpus: CPUs of each replica, in Ray's units.
        gpus: GPUs of each replica, in Ray's units.
        host: address that the cluster listens on.
        port: port that the cluster listens on.
        drain_seconds: time that requests have to finish when a replica stops.
        is_new: whether to start a cluster of Ray, or to join the one that RAY_ADDRESS names.
        has_token: whether a new cluster accepts only programs with a token; see `require_token`.
    """

    replicas: int
    slots: int
    queue: int
    cpus: float
    gpus: float
    host: str
    port: int
    drain_seconds: float
    is_new: bool
    has_token: bool


def run(
    build: Callable[[], FastAPI],
    cluster: Cluster,
    on_ready: Callable[[], None],
    notify: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        build: returns the application; called in each replica.
        cluster: the distribution.
        on_ready: called when all replicas accept requests.
        notify: prints a notice.

    Raises:
        MissingExtraError: if Ray is not installed.
    """
    try:
        import ray
        from ray import serve
        from ray.serve.config import BackpressureConfig, HTTPOptions, RequestRouterConfig
    except ImportError as error:
        raise MissingExtraError(
            f"Ray Serve is not installed; run: {install_command('ray')}"
        ) from error

    deployment: Any = serve.deployment(
        name="wkv",
        num_replicas=cluster.replicas,
        ray_actor_options={"num_cpus": cluster.cpus, "num_gpus": cluster.gpus},
        # More than there are slots: also /health and similar requests, and the next prompts.
        max_ongoing_requests=2 * cluster.slots,
        max_queued_requests=cluster.queue,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=RETRY_SECONDS),
        request_router_config=RequestRouterConfig(request_router_class=ROUTER),
        graceful_shutdown_timeout_s=cluster.drain_seconds,
    )(serve.ingress(build)())
    stopped = threading.Event()
    # Ray logs many details of its own. It joins the cluster that RAY_ADDRESS names.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    address = "local" if cluster.is_new else None
    ray.init(address, logging_level=logging.WARNING, log_to_driver=False)
    if cluster.is_new:
        gcs = ray.get_runtime_context().gcs_address
        notify(ports_notice([gcs.rpartition(":")[2]], ray.nodes()[0], cluster.has_token))
    serve.start(
        logging_config=QUIET,
        http_options=HTTPOptions(host=cluster.host, port=cluster.port),
    )
    try:
        serve.run(deployment.bind(), name="wkv", route_prefix="/", logging_config=QUIET)
        for number in (signal.SIGINT, signal.SIGTERM):  # Ray has replaced the handlers
            signal.signal(number, lambda *_: stopped.set())
        on_ready()
        stopped.wait()
    finally:
        serve.shutdown()
        ray.shutdown()


def require_token(environment: MutableMapping[str, str], home: Path) -> bool:
    """Let a new cluster accept only programs that know a token; call this before `run`.

    Ray listens on all network interfaces, and whoever reaches its ports can run any code. A token
    or a mode that the user has set is kept. Ray itself would create a file that all users can read.

    Args:
        environment: the environment variables of this process.
        home: the home directory; the file of the token is created there if necessary.

    Returns:
        whether a token is needed; the user may have turned this off.

    Raises:
        StateError: if the file cannot be written.
    """
    if environment.setdefault(MODE, "token") != "token":
        return False
    if environment.get(TOKEN) or environment.get(TOKEN_PATH):
        return True
    path = home / TOKEN_FILE
    with write_errors(path, StateError):
        if path.is_file():
            path.chmod(0o600)
            return True
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    token = secrets.token_hex(32)
    atomic_write(path, lambda file: file.write_text(token), private=True, error_type=StateError)
    return True


def ports_notice(ports: Sequence[str], node: Mapping[str, Any], has_token: bool) -> str:
    """Return a notice about the ports that Ray has opened, and who can use them.

    Args:
        ports: ports that the description of the node does not contain.
        node: Ray's description of this machine.
        has_token: whether programs need a token.
    """
    found = {int(value) for name, value in node.items() if name.endswith("Port") and value}
    listed = ", ".join(map(str, sorted(found | set(map(int, ports)))))
    text = f"Ray listens on all network interfaces, on the ports {listed} and others of its workers"
    if not has_token:
        return f"{text}; everybody who reaches them can run code here, because {MODE} is not token"
    return f"{text}; it accepts only programs with its token, but encrypts nothing: use a firewall"
