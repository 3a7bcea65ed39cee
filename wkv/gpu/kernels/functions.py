"""Functions of single numbers, for other kernels."""

import triton
import triton.language as tl


@triton.jit
def sigmoid(x):
    """Return 1 / (1 + e^-x)."""
    return 1.0 / (1.0 + tl.exp(-x))
