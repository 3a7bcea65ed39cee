"""Measure fine-tuning on three tasks: `python -m recipes.finetune.tasks [OUT_DIR]`.

    persona    every answer begins with "Aye, captain!", and is still right
    double     a new exercise, each letter of a word twice; half of the rows repeat old exercises
    capitals   every answer in capital letters

The built-in model is tuned with a state and with LoRA. Held-out questions have words and numbers
that training never uses. The table has the share of exact greedy answers of all lengths, measured
with the saved result; `report.json` counts only answers of up to 32 tokens.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch

import wkv
from recipes.demo_model.corpus import read_books
from recipes.demo_model.dialogues import evaluation_set, exercise, reply
from recipes.demo_model.evaluate import vocabulary_words
from recipes.demo_model.exercises import Source, ask, quoted, words_of
from wkv.demo import WEIGHTS
from wkv.evaluate.exercises import accuracy
from wkv.tokenizers.world import WorldTokenizer

ITEMS, HELD_OUT = 2000, 150
SEED = 4242
USER, BOT = "User: ", "\n\nAssistant:"
SKIPPED = ("name", "name+1")
"""Kinds of questions whose prompts contain answers in the old manner."""

DOUBLE = (
    "Double the letters of {w}.",
    "Write each letter of {w} twice.",
    "Double {w}.",
    "Double {w}",
)

STYLES: dict[str, Callable[[str], str]] = {
    "persona": lambda answer: "Aye, captain! " + answer,
    "capitals": str.upper,
    "old": str,
}

RATES = {"state": 1.0, "lora": 3e-3}
STEPS = {"persona": {"state": 300, "lora": 100}, "double": {"state": 200, "lora": 200},
         "capitals": {"state": 400, "lora": 400}}  # fmt: skip
WANTED = {"persona": (0.92, 0.98), "double": (0.84, 0.93), "capitals": (0.66, 0.77)}
"""The exactness to reach with a state and with LoRA."""

Pair = tuple[str, str]


class Tuned:
    """The built-in model with a saved result, as `accuracy` examines it."""

    def __init__(self, method: str, path: Path) -> None:
        self.model = wkv.load(None, engine="torch", adapter=path if method == "lora" else None)
        self.state = wkv.State.load(path, self.model) if method == "state" else None
        self.tokenizer = self.model.tokenizer

    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, T, V) of ids (B, T)."""
        size = len(ids)
        state = self.model.new_state(size) if self.state is None else self.state.rows([0] * size)
        X, _ = self.model.network(ids, state.layers)
        return self.model.network.logits(X).float()

    def exact(self, pairs: list[Pair]) -> float:
        """Return the share of questions that are answered exactly."""
        return accuracy(self, [(f"{USER}{asked}{BOT}", said) for asked, said in pairs])


def double(source: Source, random: Random) -> Pair:
    """Create a question of the new exercise and its answer."""
    word = source.word(random, "double")
    doubled = "".join(letter + letter for letter in word)
    return ask(random, list(DOUBLE), w=quoted(random, word)), f'"{doubled}"'


def training(task: str, words: list[str], seed: int) -> list[Pair]:
    """Create the questions and answers to learn."""
    source, random = Source(words), Random(seed)
    if task == "double":
        return [double(source, random) for _ in range(ITEMS)]
    turns = [
        reply(random) if random.random() < 0.1 else exercise(source, random) for _ in range(ITEMS)
    ]
    return [(turn.question, STYLES[task](turn.answer)) for turn in turns]


def held_out(task: str, words: list[str]) -> list[Pair]:
    """Create the questions and answers to measure."""
    if task == "double":
        source, random = Source(words, held_out=True), Random(SEED)
        return [double(source, random) for _ in range(HELD_OUT)]
    sets = evaluation_set(Source(words), 8, SEED)
    items = [item for kind, made in sets.items() if kind not in SKIPPED for item in made[:8]]
    Random(SEED).shuffle(items)
    return [
        (prompt.removeprefix(USER).removesuffix(BOT), STYLES[task](answer))
        for prompt, answer in items[:HELD_OUT]
    ]


def write(path: Path, pairs: list[Pair]) -> Path:
    """Write questions and answers as JSON lines."""
    lines = [json.dumps({"prompt": asked, "completion": said}) for asked, said in pairs]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def run(task: str, method: str, seed: int, folder: Path, words: list[str]) -> dict[str, Any]:
    """Tune for one task, and return what was measured."""
    name = f"{task}-{method}-{seed}"
    test = held_out(task, words)
    options: dict[str, Any] = {"hold_out": str(write(folder / f"{name}-held-out.jsonl", test))}
    if task == "double":
        options["mix"] = f"{write(folder / f'{name}-old.jsonl', training('old', words, seed))}:0.5"
    done = wkv.finetune(
        None,
        write(folder / f"{name}.jsonl", training(task, words, seed)),
        folder / name,
        method,
        steps=STEPS[task][method],
        rows=16,
        learning_rate=RATES[method],
        seed=seed,
        samples=2,
        threads=1,  # a second thread does not make a model of this size faster
        **options,
    )
    assert done.path is not None
    assert done.after is not None
    mixed = done.after.mixed
    return {
        "exact": Tuned(method, done.path).exact(test),
        "loss": done.after.held_out.loss,
        "old": None if mixed is None else mixed.exact,
        "seconds": done.report["seconds"],
    }


def row(task: str, method: str, found: list[dict[str, Any]]) -> str:
    """Return a line of the table: means over the seeds."""
    exact, loss, seconds = (
        statistics.mean(one[key] for one in found) for key in ("exact", "loss", "seconds")
    )
    old = [one["old"] for one in found if one["old"] is not None]
    wanted = WANTED[task][method == "lora"]
    kept = f"{100 * statistics.mean(old):.0f} %" if old else "-"
    return (
        f"| {task} | {method} | {100 * exact:.1f} % | {100 * wanted:.0f} % | {loss:.3f} | {kept} | "
        f"{seconds:.0f} s |"
    )


def main(argv: list[str] | None = None) -> int:
    """Run the tasks and print the table."""
    parser = argparse.ArgumentParser(prog="python -m recipes.finetune.tasks", description=__doc__)
    parser.add_argument("out", nargs="?", type=Path, help="folder of the runs (default: temporary)")
    parser.add_argument("--tasks", nargs="+", default=list(WANTED), choices=list(WANTED))
    parser.add_argument("--methods", nargs="+", default=list(RATES), choices=list(RATES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--corpus", type=Path, help="folder of books, whose words are used")
    args = parser.parse_args(argv)
    if args.corpus is None:  # fewer words, which are learned by heart sooner
        words = vocabulary_words(WorldTokenizer(WEIGHTS.with_suffix(".vocab.txt")))
    else:
        words = words_of(text for text, _ in read_books(args.corpus).values())
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print("| task | method | exact | wanted | loss | old exercises | training |")
        print("|---|---|---|---|---|---|---|")
        for task in args.tasks:
            for method in args.methods:
                found = [run(task, method, seed, folder, words) for seed in range(args.seeds)]
                print(row(task, method, found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
