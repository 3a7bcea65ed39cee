"""The memory stream: how fast this machine reads a buffer that no cache holds."""

import ctypes
import statistics
import time

import torch

from wkv.inference.model import Model
from wkv.native import library

LARGEST = 2**30
SMALLEST = 2**26
"""Bytes of the buffer: caches are smaller, and no memory is short of it."""

READS = 3
"""Reads of which the median counts."""


class Stream:
    """A buffer on a device, and what reads it.

    Attributes:
        how: what reads, in words.
        n_bytes: of the buffer.
    """

    def __init__(
        self, device: torch.device, threads: int, *, kernels: str = "", n_bytes: int = LARGEST
    ) -> None:
        """Make the buffer.

        Args:
            device: whose memory is read.
            threads: of the processor that read it.
            kernels: of the native engine; none: the fastest, where there are any.
            n_bytes: size of the buffer, about.
        """
        self._buffer = torch.ones(max(SMALLEST, n_bytes) // 4, device=device)
        self._threads = threads
        self.n_bytes = self._buffer.nbytes
        missing = library.missing() if device.type == "cpu" else f"the memory is that of {device}"
        self._kernels = "" if missing else kernels or library.kernels()[0]
        self.how = (
            f"summed by PyTorch ({missing})" if missing else f"read by the {self._kernels} kernels"
        )

    def bytes_per_second(self) -> float:
        """The median of a few reads."""
        return self.n_bytes / statistics.median(self._seconds() for _ in range(READS))

    def _seconds(self) -> float:
        """Seconds of one read."""
        if self._kernels:
            seen = ctypes.c_uint64()
            name, pointer = self._kernels.encode(), self._buffer.data_ptr()
            read = library.library().wkv_stream
            return float(read(name, pointer, self.n_bytes, self._threads, ctypes.byref(seen)))
        begun = time.perf_counter()
        self._buffer.sum().item()  # waits for a GPU too
        return time.perf_counter() - begun


def stream_for(model: Model, free_bytes: int | None = None) -> Stream:
    """A stream of a model's device, by its own kernels; it takes a quarter of free memory at most.

    Args:
        model: whose speed is compared with it.
        free_bytes: of main memory; None where the system does not tell.
    """
    on_cpu = model.device.type == "cpu"
    most = LARGEST if free_bytes is None or not on_cpu else min(LARGEST, free_bytes // 4)
    kernels = model.kernels if model.engine == "native" else ""
    return Stream(model.device, model.threads, kernels=kernels, n_bytes=most)
