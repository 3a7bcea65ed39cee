"""Measurement of the memory bandwidth with a buffer that is larger than the caches."""

import ctypes
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from wkv.inference.model import Model
from wkv.native import library

LARGEST = 2**30
SMALLEST = 2**26
"""Limits of the buffer size in bytes: larger than caches, and small enough for any machine."""

READS, READS_AT_ONCE = 3, 20
"""Number of measurements whose median is returned, and of reads in each of them on a GPU."""


class Stream:
    """A memory buffer on a device, and a method that measures how fast it is read.

    Attributes:
        how: a description of the method.
        n_bytes: size of the buffer.
    """

    def __init__(
        self, device: torch.device, threads: int, *, kernels: str = "", n_bytes: int = LARGEST
    ) -> None:
        """Allocate the buffer.

        Args:
            device: the device whose memory is read.
            threads: number of CPU threads that read it.
            kernels: native kernels to read with; empty: the fastest ones, if there are any.
            n_bytes: approximate size of the buffer.
        """
        self._buffer = torch.ones(max(SMALLEST, n_bytes) // 4, device=device)
        self._threads = threads
        self.n_bytes = self._buffer.nbytes
        missing = library.missing_reason() if device.type == "cpu" else f"the memory of {device}"
        self._kernels = "" if missing else kernels or library.kernels()[0]
        self.how = (
            f"summed by PyTorch ({missing})" if missing else f"read by the {self._kernels} kernels"
        )

    def bytes_per_second(self) -> float:
        """Measure the bandwidth as the median of a few reads."""
        return self.n_bytes / statistics.median(self._seconds() for _ in range(READS))

    def _seconds(self) -> float:
        """Return the time in seconds to read the buffer once."""
        if self._kernels:
            seen = ctypes.c_uint64()
            name, pointer = self._kernels.encode(), self._buffer.data_ptr()
            read = library.library().wkv_stream
            return float(read(name, pointer, self.n_bytes, self._threads, ctypes.byref(seen)))
        if self._buffer.device.type == "cuda":
            return gpu_seconds(self._buffer.sum, READS_AT_ONCE)
        begun = time.perf_counter()
        self._buffer.sum().item()  # item() waits until a device has finished
        return time.perf_counter() - begun


def gpu_seconds(read: Callable[[], object], times: int) -> float:
    """Measure the time of one of several reads on a CUDA device.

    The device measures itself, so that neither launches nor waiting for the host are included.
    """
    make_event: Any = torch.cuda.Event  # Any: the class declares no types
    begin, end = make_event(enable_timing=True), make_event(enable_timing=True)
    begin.record()
    for _ in range(times):
        read()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000 / times


def stream_for(model: Model, free_bytes: int | None = None) -> Stream:
    """Return a stream on a model's device that uses the model's kernels.

    Its buffer takes at most a quarter of the free memory.

    Args:
        model: the model whose speed is compared with the bandwidth.
        free_bytes: free main memory in bytes; None if it is unknown.
    """
    on_cpu = model.device.type == "cpu"
    most = LARGEST if free_bytes is None or not on_cpu else min(LARGEST, free_bytes // 4)
    kernels = model.kernels if model.engine == "native" else ""
    return Stream(model.device, model.threads, kernels=kernels, n_bytes=most)
