"""The results of a measurement as one JSON object."""

from collections.abc import Sequence
from dataclasses import asdict

from wkv.bench.drafts import DraftResult
from wkv.bench.engine_info import kernels_here, why
from wkv.bench.memory_bandwidth import Stream
from wkv.bench.rounds import Measured, Result
from wkv.inference.model import Model


def report_of(
    model: Model, stream: Stream, measured: Measured, drafts: Sequence[DraftResult] = ()
) -> dict[str, object]:
    """Return the model, its engine, the memory and all results, with the raw values per round."""
    config = model.config
    return {
        "model": str(model.path),
        "identity": model.identity,
        "generation": config.generation,
        "n_layer": config.n_layer,
        "n_embd": config.n_embd,
        "vocab_size": config.vocab_size,
        "strategy": str(model.strategy),
        "reason": model.strategy.reason,
        "engine": model.engine,
        "kernels": model.kernels,
        "kernels_here": kernels_here(),
        "why": why(model),
        "threads": model.threads,
        **asdict(measured.costs),
        "text": measured.text,
        "rounds": len(measured.streams),
        "memory": {
            "how": stream.how,
            "n_bytes": stream.n_bytes,
            "bytes_per_second": measured.stream,
            "each_round": measured.streams,
        },
        "results": [_facts(result) for result in measured.results],
        "drafts": [asdict(result) for result in drafts],
    }


def _facts(result: Result) -> dict[str, object]:
    """Return the results of one task; prefill has no share, because memory does not limit it."""
    task = result.task
    return {
        "name": task.name,
        **asdict(task),
        "tokens_per_second": result.tokens_per_second,
        "bytes_per_token": result.bytes_per_token,
        "bytes_per_second": result.bytes_per_second,
        "operations_per_byte": result.operations_per_byte,
        "share_of_memory": result.share if task.kind == "decode" else None,
        "seconds_each_round": result.seconds,
    }
