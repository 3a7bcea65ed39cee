"""The application on Ray Serve: several replicas, on one machine or on a cluster.

Each replica is a whole server. The states and replies that a conversation needs are in a folder
that all replicas share, under digests of their content. So any replica can handle any turn, and the
loss of one ends no conversation. Keeping a session on one replica is only faster.

Needs `pip install 'wkv[ray]'`.
"""

import logging
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI

from wkv.errors import MissingExtraError, install_command

RETRY_SECONDS = 2

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
    """

    replicas: int
    slots: int
    queue: int
    cpus: float
    gpus: float
    host: str
    port: int
    drain_seconds: float


def run(build: Callable[[], FastAPI], cluster: Cluster, on_ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        build: returns the application; called in each replica.
        cluster: the distribution.
        on_ready: called when all replicas accept requests.

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
    ray.init(logging_level=logging.WARNING, log_to_driver=False)
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
