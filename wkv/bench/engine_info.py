"""Which engine and kernels ran a model, and why, in words."""

from wkv.inference.load import describe, native_refusal
from wkv.inference.model import Model
from wkv.native import library


def kernels_here() -> tuple[str, ...]:
    """Kernels of the native engine that this CPU runs, fastest first; none without the library."""
    return () if library.missing() is not None else library.kernels()


def why(model: Model) -> str:
    """Why this engine and these kernels."""
    if model.engine == "torch":
        refusal = native_refusal(describe(model.path), model.strategy) or library.missing()
        if refusal is not None:
            return f"the native engine cannot run this: {refusal}"
        return "the native engine could run this, and was not asked to"
    fastest, *others = kernels_here()
    if model.kernels != fastest:
        return f"asked for; this CPU runs, fastest first, {', '.join(kernels_here())}"
    also = f"; it also runs {', '.join(others)}" if others else ""
    return f"the fastest kernels that this CPU runs{also}"
