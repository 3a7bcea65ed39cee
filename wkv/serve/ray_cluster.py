"""The same application on Ray Serve: several replicas, on one machine or on a cluster.

Each replica is a whole server. What a conversation needs to go on, states and replies, lies in a
folder that all of them share, named by digests; so any replica can take any turn, and one that is
lost takes no conversation with it. That a session stays with its replica is only faster.

Needs `pip install 'wkv[ray]'`.
"""

import logging
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI

from wkv.errors import MissingExtraError

RETRY_SECONDS = 2

QUIET = {"log_level": "WARNING", "enable_access_log": False}

ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
"""Keeps requests with the same `X-Session-Id` on one replica."""


@dataclass(frozen=True)
class Cluster:
    """How an application is spread.

    Attributes:
        replicas: how many servers.
        slots: sequences that each runs at once.
        queue: requests that may wait for all of them.
        cpus, gpus: that each replica takes, as Ray counts them.
        host, port: where the cluster listens.
        drain_seconds: that requests have to end when a replica stops.
    """

    replicas: int
    slots: int
    queue: int
    cpus: float
    gpus: float
    host: str
    port: int
    drain_seconds: float


def run(build: Callable[[], FastAPI], cluster: Cluster, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or Ctrl-C. `build` is called in each replica; `ready` when all are up.

    Raises:
        MissingExtraError: if Ray is not installed.
    """
    try:
        import ray
        from ray import serve
        from ray.serve.config import BackpressureConfig, HTTPOptions, RequestRouterConfig
    except ImportError as error:
        raise MissingExtraError("Ray Serve is not installed; pip install 'wkv[ray]'") from error

    deployment: Any = serve.deployment(
        name="wkv",
        num_replicas=cluster.replicas,
        ray_actor_options={"num_cpus": cluster.cpus, "num_gpus": cluster.gpus},
        # A few more than there are slots: /health and the like, and the next to be read.
        max_ongoing_requests=2 * cluster.slots,
        max_queued_requests=cluster.queue,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=RETRY_SECONDS),
        request_router_config=RequestRouterConfig(request_router_class=ROUTER),
        graceful_shutdown_timeout_s=cluster.drain_seconds,
    )(serve.ingress(build)())
    stopped = threading.Event()
    # Ray tells much that is its own affair; an address in RAY_ADDRESS joins a cluster.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    ray.init(logging_level=logging.WARNING, log_to_driver=False)
    serve.start(
        logging_config=QUIET,
        http_options=HTTPOptions(host=cluster.host, port=cluster.port),
    )
    try:
        serve.run(deployment.bind(), name="wkv", route_prefix="/", logging_config=QUIET)
        for kind in (signal.SIGINT, signal.SIGTERM):  # Ray has taken them meanwhile
            signal.signal(kind, lambda *_: stopped.set())
        ready()
        stopped.wait()
    finally:
        serve.shutdown()
        ray.shutdown()
