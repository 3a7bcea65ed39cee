"""Counters for Prometheus. No name or label comes from what users send."""

from dataclasses import dataclass, fields

from wkv.batching import Load
from wkv.batching.state_cache import StateCache


@dataclass
class Metrics:
    """What has happened since the server began.

    Attributes:
        requests: that were taken.
        refused: that were not, because too many waited.
        prompt_tokens: of all prompts.
        cached_tokens: of them, those that were not read again.
        generated_tokens: that were drawn.
    """

    requests: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0

    def text(self, load: Load, cache: StateCache, failures: int) -> str:
        """All values in Prometheus' text format."""
        lines = []
        for entry in fields(self):
            name = f"wkv_{entry.name}_total"
            lines += [f"# TYPE {name} counter", f"{name} {getattr(self, entry.name)}"]
        lines += ["# TYPE wkv_failed_total counter", f"wkv_failed_total {failures}"]
        gauges = {
            "wkv_sequences_writing": load.running,
            "wkv_prompts_reading": load.prefilling,
            "wkv_requests_queued": load.queued,
            "wkv_tasks": load.tasks,
            "wkv_slots": load.slots,
            "wkv_cache_states": len(cache),
            "wkv_cache_bytes": cache.n_bytes,
        }
        for name, value in gauges.items():
            lines += [f"# TYPE {name} gauge", f"{name} {value}"]
        return "\n".join(lines) + "\n"
