"""Running tasks of EleutherAI's lm-evaluation-harness on a wkv model."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wkv.errors import InputError, MissingExtraError, install_command
from wkv.inference.model import Model

if TYPE_CHECKING:
    from wkv.inference.speculation import Speculate, Speculation
    from wkv.prompting.template import Template


def run_tasks(
    model: Model,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    batch_size: int = 8,
    num_fewshot: int | None = None,
    begin: str = "auto",
    chat: "Template | None" = None,
    include_path: Path | None = None,
    speculate: "Speculate | Speculation" = "auto",
) -> dict[str, Any]:
    """Run tasks by name.

    Args:
        model: any loaded model.
        tasks: names of lm_eval tasks, groups or tags.
        limit: maximum number of documents per task, for a quick trial.
        batch_size: number of rows per batch.
        num_fewshot: number of examples before each question; None: the default of each task.
        begin: the ids to read before a text, see `wkv.evaluate.lambada.begin_ids`.
        chat: format each document as a conversation in this format.
        include_path: a folder with your own task definitions.
        speculate: how texts are drafted, as in `wkv.generate`; results do not depend on it.

    Returns:
        The result of lm_eval's `simple_evaluate`: `results` by task, `versions`, `n-shot`, ...

    Raises:
        MissingExtraError: if lm_eval is not installed.
        InputError: if a task is unknown.
    """
    check_installed()
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from wkv.evaluate.lm_eval_model import WKVHarness

    manager = TaskManager(include_path=include_path)
    unknown = [name for name in tasks if not manager.match_tasks([name])]
    if unknown or not tasks:
        raise InputError(
            f"lm_eval has no task {', '.join(unknown)!r}; `lm-eval ls tasks` lists all tasks, and "
            "--include-path DIR adds a folder of your own"
        )
    harness = WKVHarness(model, batch_size=batch_size, begin=begin, chat=chat, speculate=speculate)
    with _bars_on_terminals_only(), redirect_stdout(sys.stderr):  # lm_eval prints to stdout
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
    """Format the results as lm_eval's table, with groups last."""
    from lm_eval.utils import make_table

    tables = [make_table(results)]
    if results.get("groups"):
        tables.append(make_table(results, "groups"))
    return "\n".join(str(table).strip() for table in tables)


def check_installed() -> None:
    """Raise an error if lm_eval is not installed, without importing it.

    Raises:
        MissingExtraError: with the pip command that installs it.
    """
    from importlib.util import find_spec

    if find_spec("lm_eval") is None:
        raise MissingExtraError(
            "--tasks requires lm_eval (EleutherAI's harness), which is not installed; run: "
            f"{install_command('eval')}"
        )


@contextmanager
def _bars_on_terminals_only() -> Iterator[None]:
    """Disable tqdm's progress bars if stderr is not a terminal.

    tqdm itself is patched, because the libraries that use it have no option for that.
    """
    from tqdm import tqdm

    init = tqdm.__init__

    def patched(bar: Any, *args: Any, disable: bool | None = None, **options: Any) -> None:
        init(bar, *args, disable=disable or None, **options)  # None: only on a terminal

    tqdm.__init__ = patched
    try:
        yield
    finally:
        tqdm.__init__ = init
