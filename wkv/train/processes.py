"""Start and connect processes that train together. Process 0 starts the helpers and ends them.

The timeout between connected processes is long, because a run may be paused (SIGSTOP) for hours. A
process that ends closes its connections, which the others notice at once. Before the connections
exist nothing would be noticed, so process 0 checks during this time that the helpers are alive.
"""

import contextlib
import multiprocessing
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from torch import distributed
from torch.distributed import FileStore  # type: ignore[attr-defined]  # not named as exported

from wkv.errors import TrainingError
from wkv.train.optimizer import ProcessGroup

TIMEOUT = timedelta(hours=12)
"""The time for which a process waits for a connected process."""

START_TIMEOUT = timedelta(minutes=5)
"""The time in which all processes must start."""

EXIT_TIMEOUT = 30.0
"""Seconds for which process 0 waits for the exit of a helper after losing the connection to it."""

Work = Callable[[ProcessGroup], object]
"""The function that each helper calls; it must be picklable."""


@contextlib.contextmanager
def start_processes(size: int, work: Work) -> Iterator[ProcessGroup]:
    """Start a group of `size` processes with this process as number 0, and end it afterwards.

    Each helper calls `work`. At the end, process 0 waits until all helpers have ended.

    Raises:
        TrainingError: if a helper ends too early.
    """
    if size == 1:
        yield ProcessGroup()
        return
    with tempfile.TemporaryDirectory() as folder, _helpers(size, work, Path(folder)) as helpers:
        store = _store(Path(folder), size)
        _meet(store, helpers)
        with _connected(0, size, store) as group:
            try:
                yield group
            except BaseException as error:
                lost = _ended(helpers, EXIT_TIMEOUT) if isinstance(error, RuntimeError) else []
                _kill(helpers)  # before they can report that process 0 is gone
                if lost:
                    raise _loss(lost) from error
                raise
            for helper in helpers:
                helper.join()


def joined_group() -> ProcessGroup | None:
    """Join the processes that torchrun (or Ray Train) has started; None if this process is alone.

    The group stays connected until the process ends.
    """
    if not distributed.is_torchelastic_launched() and not distributed.is_initialized():
        return None
    if not distributed.is_initialized():
        distributed.init_process_group("gloo", timeout=TIMEOUT)
    if distributed.get_world_size() == 1:
        return None
    return ProcessGroup(
        distributed.get_rank(), distributed.get_world_size(), distributed.all_reduce
    )


@contextlib.contextmanager
def _helpers(size: int, work: Work, folder: Path) -> Iterator[list[BaseProcess]]:
    """Start the processes 1 to size - 1, and kill those that are left at the end."""
    spawn = multiprocessing.get_context("spawn")
    helpers: list[BaseProcess] = []
    try:
        for rank in range(1, size):
            helper = spawn.Process(target=_run_helper, args=(rank, size, folder, work), daemon=True)
            helper.start()
            helpers.append(helper)
        yield helpers
    finally:
        _kill(helpers)


def _run_helper(rank: int, size: int, folder: Path, work: Work) -> None:
    """Connect a helper process and call `work`. Signals are ignored: process 0 decides the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    store = _store(folder, size)
    store.set(str(rank), "here")
    store.wait(["0"], START_TIMEOUT)
    # Process 0 gets the same error and reports it to the user.
    with contextlib.suppress(TrainingError), _connected(rank, size, store) as group:
        work(group)


def _store(folder: Path, size: int) -> FileStore:
    return FileStore(str(folder / "processes"), size)


def _meet(store: FileStore, helpers: Sequence[BaseProcess]) -> None:
    """Wait until all helpers have started, and notify them."""
    names = [str(rank) for rank in range(1, len(helpers) + 1)]
    deadline = time.monotonic() + START_TIMEOUT.total_seconds()
    while not store.check(names):
        if lost := _ended(helpers, 0.05):
            raise _loss(lost)
        if time.monotonic() > deadline:
            raise TrainingError(
                f"the {len(helpers) + 1} processes did not all start within "
                f"{START_TIMEOUT.total_seconds():.0f} seconds; give fewer --processes"
            )
    store.set("0", "here")


@contextlib.contextmanager
def _connected(rank: int, size: int, store: FileStore) -> Iterator[ProcessGroup]:
    """Join the process group of the store, and leave it at the end."""
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        yield ProcessGroup(rank, size, distributed.all_reduce)
    finally:
        distributed.destroy_process_group()


def _ended(helpers: Sequence[BaseProcess], seconds: float) -> list[BaseProcess]:
    """Return the helpers that have ended, after waiting until one ends or the time is over."""
    ready = wait([helper.sentinel for helper in helpers], seconds)
    lost = [helper for helper in helpers if helper.sentinel in ready]
    for helper in lost:
        helper.join()  # a process closes its sentinel shortly before it has ended
    return lost


def _kill(helpers: Sequence[BaseProcess]) -> None:
    """Kill the helpers, which ignore SIGTERM, and wait for their end."""
    for helper in helpers:
        helper.kill()
        helper.join()


def _loss(lost: Sequence[BaseProcess]) -> TrainingError:
    codes = ", ".join(str(helper.exitcode) for helper in lost)
    return TrainingError(
        f"{len(lost)} of the helper processes ended too early (exit code {codes}), perhaps because "
        "memory ran out; resume from the last checkpoint, if any, with fewer --processes"
    )
