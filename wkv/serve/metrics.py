"""Prometheus metrics of the server. No name or label contains anything that users send."""

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from wkv.batching import SchedulerLoad
from wkv.gpu.slots import SlotUsage
from wkv.inference.sequence import DraftCounts

CONTENT_TYPE = "text/plain; version=0.0.4"

FIRST_TOKEN_BUCKETS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
TOKEN_BUCKETS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
)  # fmt: skip
REQUEST_BUCKETS = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
"""Upper bounds in seconds. Source: the histograms of vLLM, so that dashboards can be shared."""


@dataclass(frozen=True)
class CacheSize:
    """The number of cached states, and their bytes."""

    states: int
    n_bytes: int


class Metrics:
    """Counters and histograms of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests that were accepted.")
        self.refused = self._counter("refused", "Requests that were refused: too many waited.")
        self.failed = self._counter("failed", "Requests that ended with an error.")
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of all prompts.")
        self.ignored_fields = self._counter(
            "ignored_fields", "Fields of requests that had no effect."
        )
        self.cached_tokens = self._counter("cached_tokens", "Prompt tokens found in the cache.")
        self.generated_tokens = self._counter("generated_tokens", "Tokens that were generated.")
        self.drafted_tokens = self._counter(
            "drafted_tokens", "Drafts of tokens that the model has read."
        )
        self.accepted_tokens = self._counter(
            "accepted_draft_tokens", "Drafts that were the token that was sampled."
        )
        self.decode_passes = self._counter(
            "draft_sequence_passes",
            "Passes over each sequence that is decoded speculatively, after its first token.",
        )
        self.first_token = self._histogram(
            "time_to_first_token_seconds",
            "Time from accepting a request to its first token.",
            FIRST_TOKEN_BUCKETS,
        )
        self.inter_token = self._histogram(
            "inter_token_latency_seconds", "Time between two tokens of a choice.", TOKEN_BUCKETS
        )
        self.request = self._histogram(
            "request_latency_seconds", "Time from accepting a request to its end.", REQUEST_BUCKETS
        )

    def count_drafts(self, drafts: DraftCounts) -> None:
        """Count the passes and drafts of a sequence that has ended."""
        self.decode_passes.inc(drafts.passes)
        self.drafted_tokens.inc(drafts.drafted)
        self.accepted_tokens.inc(drafts.accepted)

    def text(self, load: SchedulerLoad, cache: CacheSize, slots: SlotUsage | None = None) -> str:
        """Return all values in Prometheus' text format; `slots` are those of a GPU."""
        gauges = _Gauges(load, cache, slots)
        self.registry.register(gauges)
        try:
            lines = generate_latest(self.registry).decode().splitlines()
        finally:
            self.registry.unregister(gauges)
        return "\n".join(line for line in lines if "_created" not in line) + "\n"

    def _counter(self, name: str, documentation: str) -> Counter:
        return Counter(f"wkv_{name}", documentation, registry=self.registry)

    def _histogram(self, name: str, documentation: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"wkv_{name}", documentation, buckets=buckets, registry=self.registry)


class _Gauges(Collector):
    """The present load, under the names that the server has always had."""

    def __init__(self, load: SchedulerLoad, cache: CacheSize, slots: SlotUsage | None) -> None:
        self._values: dict[str, tuple[str, float]] = {
            "wkv_sequences_writing": ("Sequences that are being generated.", load.running),
            "wkv_prompts_reading": ("Prompts that are being read.", load.prefilling),
            "wkv_requests_queued": ("Requests that wait for a slot.", load.queued),
            "wkv_tasks": ("Other work that waits.", load.tasks),
            "wkv_slots": ("Sequences that can run at once.", load.slots),
            "wkv_cache_states": ("Cached states.", cache.states),
            "wkv_cache_bytes": ("Memory of the cached states.", cache.n_bytes),
        }
        if slots is not None:
            self._values |= {
                "wkv_gpu_slots": ("Slots for states on the GPU.", slots.count),
                "wkv_gpu_slots_used": ("Slots that contain states.", slots.in_use),
                "wkv_gpu_slot_bytes": ("GPU memory of all slots.", slots.n_bytes),
                "wkv_gpu_saved_bytes": (
                    "Main memory of states that moved there from slots.",
                    slots.saved_bytes,
                ),
            }

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges."""
        for name, (documentation, value) in self._values.items():
            yield GaugeMetricFamily(name, documentation, value=value)
