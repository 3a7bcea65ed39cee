"""Tasks of EleutherAI's harness, run on a model of wkv."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wkv.errors import InputError, MissingExtraError
from wkv.inference.model import Model

if TYPE_CHECKING:
    from wkv.evaluate.lm_eval_model import ChatForm


def run_tasks(
    model: Model,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    batch_size: int = 8,
    num_fewshot: int | None = None,
    begin: str = "auto",
    chat: "ChatForm | None" = None,
    include_path: Path | None = None,
) -> dict[str, Any]:
    """Run tasks by name.

    Args:
        model: any loaded model.
        tasks: names that lm_eval knows: tasks, groups or tags.
        limit: only so many documents of each task, for a trial.
        batch_size: rows that pass the model together.
        num_fewshot: examples before each question; None: as each task has it.
        begin: what is read before a text, see `wkv.evaluate.lambada.begin_ids`.
        chat: put each task as a conversation of this form.
        include_path: a folder with tasks of your own.

    Returns:
        What lm_eval's `simple_evaluate` does: `results` by task, `versions`, `n-shot`, ...

    Raises:
        MissingExtraError: if lm_eval is not installed.
        InputError: if a task is not known.
    """
    check_installed()
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from wkv.evaluate.lm_eval_model import WKVHarness

    manager = TaskManager(include_path=include_path)
    unknown = [name for name in tasks if not manager.match_tasks([name])]
    if unknown or not tasks:
        raise InputError(
            f"lm_eval knows no task {', '.join(unknown)!r}; `lm-eval ls tasks` lists them, and "
            "--include-path DIR adds a folder of your own"
        )
    harness = WKVHarness(model, batch_size=batch_size, begin=begin, chat=chat)
    with _bars_on_terminals_only(), redirect_stdout(sys.stderr):  # it prints notices of its own
        results: dict[str, Any] = simple_evaluate(
            model=harness,
            tasks=list(tasks),
            num_fewshot=num_fewshot,
            batch_size=batch_size,
            limit=limit,
            log_samples=False,
            apply_chat_template=chat is not None,
            task_manager=manager,
        )
    return results


def table_of(results: dict[str, Any]) -> str:
    """The results as the table that lm_eval prints, groups last."""
    from lm_eval.utils import make_table

    tables = [make_table(results)]
    if results.get("groups"):
        tables.append(make_table(results, "groups"))
    return "\n".join(str(table).strip() for table in tables)


def check_installed() -> None:
    """Raise if lm_eval is not installed; imports nothing.

    Raises:
        MissingExtraError: holds the pip line.
    """
    from importlib.util import find_spec

    if find_spec("lm_eval") is None:
        raise MissingExtraError(
            "tasks are those of EleutherAI's harness, and lm_eval is not installed; run: "
            "pip install 'wkv[eval]'"
        )


@contextmanager
def _bars_on_terminals_only() -> Iterator[None]:
    """Without the bars of tqdm where stderr is no terminal; libraries leave no other way."""
    from tqdm import tqdm

    draw = tqdm.__init__

    def draw_on_terminal(bar: Any, *args: Any, disable: bool | None = None, **options: Any) -> None:
        draw(bar, *args, disable=disable or None, **options)  # None: only on a terminal

    tqdm.__init__ = draw_on_terminal
    try:
        yield
    finally:
        tqdm.__init__ = draw
