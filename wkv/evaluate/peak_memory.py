"""The peak memory use of this process."""

import sys
from pathlib import Path


def peak_bytes() -> int | None:
    """Return the peak memory use in bytes, including mapped weights, or None if it is unknown."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    except (OSError, ValueError):
        pass
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def peak_gpu_bytes() -> int | None:
    """Return the sum of PyTorch's peak memory use on all GPUs in bytes, or None without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return None
    return sum(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count()))
