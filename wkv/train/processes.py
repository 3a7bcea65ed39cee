"""Processes that train together: number 0 starts the others and does not outlive them.

Any two of them may have to wait long for each other, as a run may be paused (SIGSTOP) for hours;
but a process that ends closes its connections, which the others notice at once. Only while the
connections are being made would nobody notice, so number 0 then looks after the helpers itself.
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
from wkv.train.optimizer import Team

PATIENCE = timedelta(hours=12)
"""How long a process waits for another that is connected to it."""

MEETING = timedelta(minutes=5)
"""How long all processes may take to start."""

LAST_WORDS = 30.0
"""Seconds between a lost connection and the end of the process that was behind it."""

Work = Callable[[Team], object]
"""What a helper does; must be picklable."""


@contextlib.contextmanager
def lead(size: int, work: Work) -> Iterator[Team]:
    """Be process 0 of a team of that size, whose helpers do `work`; end when all have ended.

    Raises:
        TrainingError: if a helper is lost.
    """
    if size == 1:
        yield Team()
        return
    with tempfile.TemporaryDirectory() as folder, _helpers(size, work, Path(folder)) as helpers:
        store = _store(Path(folder), size)
        _meet(store, helpers)
        with _connected(0, size, store) as team:
            try:
                yield team
            except BaseException as error:
                lost = _ended(helpers, LAST_WORDS) if isinstance(error, RuntimeError) else []
                _kill(helpers)  # before they can complain that process 0 is gone
                if lost:
                    raise _loss(lost) from error
                raise
            for helper in helpers:
                helper.join()


@contextlib.contextmanager
def _helpers(size: int, work: Work, folder: Path) -> Iterator[list[BaseProcess]]:
    """Processes 1 to size - 1; none of them is left at the end."""
    spawn = multiprocessing.get_context("spawn")
    helpers: list[BaseProcess] = []
    try:
        for rank in range(1, size):
            helper = spawn.Process(target=_help, args=(rank, size, folder, work), daemon=True)
            helper.start()
            helpers.append(helper)
        yield helpers
    finally:
        _kill(helpers)


def _help(rank: int, size: int, folder: Path, work: Work) -> None:
    """What a helper process does. Process 0 decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    store = _store(folder, size)
    store.set(str(rank), "here")
    store.wait(["0"], MEETING)
    # Process 0 meets the same error and tells the user.
    with contextlib.suppress(TrainingError), _connected(rank, size, store) as team:
        work(team)


def _store(folder: Path, size: int) -> FileStore:
    return FileStore(str(folder / "processes"), size)


def _meet(store: FileStore, helpers: Sequence[BaseProcess]) -> None:
    """Wait until all helpers are there, and say so to them."""
    names = [str(rank) for rank in range(1, len(helpers) + 1)]
    last_moment = time.monotonic() + MEETING.total_seconds()
    while not store.check(names):
        if lost := _ended(helpers, 0.05):
            raise _loss(lost)
        if time.monotonic() > last_moment:
            raise TrainingError(
                f"the {len(helpers) + 1} processes did not all start within "
                f"{MEETING.total_seconds():.0f} seconds; give fewer --processes"
            )
    store.set("0", "here")


@contextlib.contextmanager
def _connected(rank: int, size: int, store: FileStore) -> Iterator[Team]:
    """Join the group of processes that share the store."""
    distributed.init_process_group(
        "gloo", store=store, rank=rank, world_size=size, timeout=PATIENCE
    )
    try:
        yield Team(rank, size, distributed.all_reduce)
    finally:
        distributed.destroy_process_group()


def _ended(helpers: Sequence[BaseProcess], seconds: float) -> list[BaseProcess]:
    """The helpers that have ended, or end within that time."""
    wait([helper.sentinel for helper in helpers], seconds)
    return [helper for helper in helpers if not helper.is_alive()]


def _kill(helpers: Sequence[BaseProcess]) -> None:
    """End them; they do not listen to SIGTERM."""
    for helper in helpers:
        helper.kill()
        helper.join()


def _loss(lost: Sequence[BaseProcess]) -> TrainingError:
    codes = ", ".join(str(helper.exitcode) for helper in lost)
    return TrainingError(
        f"{len(lost)} of the helper processes ended too early (exit code {codes}), perhaps for "
        "want of memory; go on from the last checkpoint, if there is one, with fewer --processes"
    )
