"""Descriptions of the engine and the kernels that run a model, and of the reasons."""

from wkv.inference.describe import describe
from wkv.inference.load import gpu_unsupported_reason, native_unsupported_reason
from wkv.inference.model import Model
from wkv.native import library


def kernels_here() -> tuple[str, ...]:
    """Return the native kernels that this CPU supports, fastest first; none without the library."""
    return () if library.missing_reason() is not None else library.kernels()


def why(model: Model) -> str:
    """Explain why a model runs with its engine and kernels."""
    if model.slot_usage is not None:
        used = model.slot_usage
        return (
            f"all layers are on one GPU; {used.count} slots for states take "
            f"{used.n_bytes / 2**20:.0f} MiB there, and more are made when they are needed"
        )
    if model.engine == "torch":
        return _why_torch(model)
    fastest, *others = kernels_here()
    if model.kernels != fastest:
        return f"requested; this CPU supports, fastest first, {', '.join(kernels_here())}"
    also = f"; it also supports {', '.join(others)}" if others else ""
    return f"the fastest kernels that this CPU supports{also}"


def _why_torch(model: Model) -> str:
    on_cpu = model.device.type == "cpu"
    name, reason_of = "native", native_unsupported_reason
    if not on_cpu:
        name, reason_of = "cuda", gpu_unsupported_reason
    reason = reason_of(describe(model.path), model.strategy)
    if reason is None and on_cpu:
        reason = library.missing_reason()
    if reason is not None:
        return f"the {name} engine cannot run this: {reason}"
    return f"the {name} engine could run this, but another engine was requested"
