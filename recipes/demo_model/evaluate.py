"""Measure a demo model: `python -m recipes.demo_model.evaluate [MODEL] [--corpus DIR] [--json]`.

The result has, for each kind of exercise, the share of held-out questions whose greedy answer is
exactly right, and for each book the bits per byte of its last 4 %, which training does not use.
Without the books, the words of the exercises come from the vocabulary, and bits per byte are
omitted.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from recipes.demo_model.corpus import read_books
from recipes.demo_model.dialogues import evaluation_set
from recipes.demo_model.exercises import Source, words_of
from wkv.demo import QUESTIONS, WEIGHTS
from wkv.evaluate.exercises import accuracy
from wkv.models.rwkv7 import RWKV7, config_from_shapes
from wkv.tokenizers import Tokenizer
from wkv.tokenizers.world import WorldTokenizer

SEED = 4242
WINDOW = 512
"""Tokens per window of a held-out text; each window begins with the initial state."""

SHORTEST = 32
"""The remainder of a text is ignored unless it has more tokens than this."""


@dataclass(frozen=True)
class Subject:
    """The model that is evaluated, and its tokenizer."""

    model: RWKV7
    tokenizer: WorldTokenizer

    def logits(self, ids: Tensor) -> Tensor:
        """Return the logits (B, T, V) float32 of ids (B, T), beginning with the initial state."""
        X, _ = self.model(ids, self.model.new_layers(len(ids)))
        return self.model.logits(X)


def load(weights: Path) -> Subject:
    """Read weights as float32, and the vocabulary `NAME.vocab.txt` in the same folder."""
    tensors = {name: value.float() for name, value in load_file(weights).items()}
    model = RWKV7(config_from_shapes({name: tuple(value.shape) for name, value in tensors.items()}))
    used = set(model.state_dict())  # some files have v0, v1 and v2 of layer 0, which are not used
    model.load_state_dict({name: value for name, value in tensors.items() if name in used})
    return Subject(model, WorldTokenizer(weights.with_suffix(".vocab.txt")))


@torch.no_grad()
def nats_and_bytes(subject: Subject, text: str, batch: int = 8) -> tuple[float, int]:
    """Return the negative log-likelihood (nats) of a text in windows, and its number of bytes."""
    ids = subject.tokenizer.encode(text)
    nats, size = 0.0, 0
    for rows in _windows(ids, batch):
        targets = rows[:, 1:]
        logits = subject.logits(rows[:, :-1])
        nats += F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
        size += len(subject.tokenizer.decode_bytes(targets.flatten().tolist()))
    return nats, size


def _windows(ids: list[int], batch: int) -> Iterator[Tensor]:
    """Yield batches of windows of WINDOW + 1 ids that overlap by one id; the remainder is last."""
    full = [ids[start : start + WINDOW + 1] for start in range(0, len(ids) - WINDOW, WINDOW)]
    for start in range(0, len(full), batch):
        yield torch.tensor(full[start : start + batch])
    rest = ids[len(full) * WINDOW :]
    if len(rest) > SHORTEST:
        yield torch.tensor([rest])


def bits_per_byte(subject: Subject, texts: dict[str, str]) -> dict[str, float]:
    """Return the bits per byte of each text, and of all texts together as "all"."""
    measured = {name: nats_and_bytes(subject, text) for name, text in texts.items()}
    all_nats, all_bytes = zip(*measured.values(), strict=True)
    measured["all"] = sum(all_nats), sum(all_bytes)
    return {name: nats / size / math.log(2) for name, (nats, size) in measured.items()}


def report(subject: Subject, corpus: Path | None, count: int) -> dict[str, dict[str, float]]:
    """Evaluate a model.

    Args:
        subject: the model and its tokenizer.
        corpus: folder of the books, or None.
        count: number of questions per kind.

    Returns:
        "exact": the share of right answers per kind; "bits_per_byte": per book, empty without
        books.
    """
    if corpus is None:
        words, held_out = vocabulary_words(subject.tokenizer), {}
    else:
        books = read_books(corpus)
        words = words_of(training for training, _ in books.values())
        held_out = {name: text for name, (_, text) in books.items()}
    sets = evaluation_set(Source(words), count, SEED)
    return {
        "exact": {kind: accuracy(subject, items) for kind, items in sets.items()},
        "bits_per_byte": bits_per_byte(subject, held_out) if held_out else {},
    }


def vocabulary_words(tokenizer: Tokenizer) -> list[str]:
    """Return the words of a vocabulary, which exercises use if the books are not given."""
    tokens = range(1, tokenizer.vocab_size)
    return words_of(tokenizer.decode([token]).strip() for token in tokens)


def write_questions(count: int = 30) -> None:
    """Write the held-out questions that are part of wkv, `count` of each kind."""
    words = vocabulary_words(WorldTokenizer(WEIGHTS.with_suffix(".vocab.txt")))
    with QUESTIONS.open("w", encoding="utf-8") as file:
        for kind, items in evaluation_set(Source(words), count, SEED).items():
            for question, answer in items[:count]:
                line = {"kind": kind, "prompt": question, "answer": answer}
                file.write(json.dumps(line) + "\n")


def table(result: dict[str, dict[str, float]]) -> str:
    """Format the result as a Markdown table."""
    exact = result["exact"]
    mean = sum(exact.values()) / len(exact)
    lines = ["| exercise | exact |", "|---|---|"]
    lines += [f"| {kind} | {100 * share:.1f} % |" for kind, share in exact.items()]
    lines += [f"| mean | {100 * mean:.1f} % |"]
    if result["bits_per_byte"]:
        lines += ["", "| held-out text | bits per byte |", "|---|---|"]
        lines += [f"| {name} | {bits:.3f} |" for name, bits in result["bits_per_byte"].items()]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Evaluate a model and print the result as a table, or with --json as numbers."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.demo_model.evaluate", description="Measure a demo model."
    )
    parser.add_argument(
        "model", nargs="?", type=Path, default=WEIGHTS, metavar="MODEL", help="a .safetensors file"
    )
    parser.add_argument("--corpus", type=Path, help="folder with the six books as .txt files")
    parser.add_argument(
        "--n", type=int, default=150, help="questions per kind (default %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print numbers as JSON")
    parser.add_argument(
        "--write-questions", action="store_true", help="write the questions that are part of wkv"
    )
    args = parser.parse_args(argv)
    if args.write_questions:
        write_questions()
        return 0
    if args.corpus is None:
        sys.stderr.write("no --corpus: words from the vocabulary only, and no bits per byte\n")
    result = report(load(args.model), args.corpus, args.n)
    sys.stdout.write((json.dumps(result) if args.json else table(result)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
