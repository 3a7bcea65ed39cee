"""Descriptions of the engine and the kernels that run a model, and of the reasons."""

from wkv.inference.describe import describe
from wkv.inference.load import native_unsupported_reason
from wkv.inference.model import Model
from wkv.native import library


def kernels_here() -> tuple[str, ...]:
    """Return the native kernels that this CPU supports, fastest first; none without the library."""
    return () if library.missing_reason() is not None else library.kernels()


def why(model: Model) -> str:
    """Explain why a model runs with its engine and kernels."""
    if model.engine == "torch":
        refusal = (
            native_unsupported_reason(describe(model.path), model.strategy)
            or library.missing_reason()
        )
        if refusal is not None:
            return f"the native engine cannot run this: {refusal}"
        return "the native engine could run this, but another engine was requested"
    fastest, *others = kernels_here()
    if model.kernels != fastest:
        return f"requested; this CPU supports, fastest first, {', '.join(kernels_here())}"
    also = f"; it also supports {', '.join(others)}" if others else ""
    return f"the fastest kernels that this CPU supports{also}"
