"""Make the demo model: `python -m wkv.demo.recipe CORPUS_DIR OUT_DIR [--resume]`.

Books and generated conversations in, `model.safetensors`, `model.vocab.txt` and a table of the
model's accuracy out. Only an eighth of the rows is prose, so that the whole run sees the books
about three times: more, and a model of this size learns them by heart.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wkv.demo.corpus import demo_vocabulary, read_books
from wkv.demo.dialogues import write_document
from wkv.demo.exercises import Source, words_of
from wkv.tokenizers.world import WorldTokenizer
from wkv.train.data import Mixture, Packed, Prose
from wkv.train.folder import RunFolder
from wkv.train.initialise import new_config
from wkv.train.loop import Job, Plan, train
from wkv.train.progress import shown
from wkv.train.vocabulary import write_vocabulary

LAYERS, WIDTH = 6, 192
PROSE_SHARE = 0.13
MINUTES = 100.0
SEED = 7


@dataclass(frozen=True)
class DemoRows:
    """Makes the rows of the demo model; a value, so that every process can make the same."""

    corpus: Path
    vocabulary: Path
    context: int
    prose_share: float
    seed: int

    def __call__(self) -> Mixture:
        """Prose and conversations, mixed."""
        tokenizer = WorldTokenizer(self.vocabulary)
        texts = [training for training, _ in read_books(self.corpus).values()]
        ids = [np.array(tokenizer.encode(text)) for text in texts]
        paragraph = tokenizer.encode("\n\n")[-1]
        source = demo_source(texts, tokenizer)
        return Mixture(
            Prose(ids, self.context, self.seed, paragraph),
            Packed(write_document(source), tokenizer.encode, self.context, self.seed),
            self.prose_share,
        )


def demo_source(texts: list[str], tokenizer: WorldTokenizer) -> Source:
    """The exercises' words: those of the texts, and which of them are one token."""
    words = words_of(texts)
    return Source(words, [word for word in words if len(tokenizer.encode(" " + word)) == 1])


def make_vocabulary_file(corpus: Path, path: Path, seed: int) -> None:
    """Write the vocabulary of the books."""
    texts = [training for training, _ in read_books(corpus).values()]
    write_vocabulary(demo_vocabulary(texts, Source(words_of(texts)), seed), path)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m wkv.demo.recipe", description="Make the demo model."
    )
    parser.add_argument(
        "corpus", type=Path, metavar="CORPUS_DIR", help="folder with the six books as .txt files"
    )
    parser.add_argument("out", type=Path, metavar="OUT_DIR", help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on from OUT_DIR's checkpoint")
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help="length of the run (default %(default)s)"
    )
    parser.add_argument(
        "--steps", type=int, help="length in steps instead; then the result can be repeated exactly"
    )
    parser.add_argument("--processes", type=int, default=2, help="processes (default %(default)s)")
    parser.add_argument(
        "--threads", type=int, default=1, help="threads in each (default %(default)s)"
    )
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--prose-share", type=float, default=PROSE_SHARE)
    parser.add_argument("--learning-rate", type=float, default=Plan.learning_rate)
    parser.add_argument("--rows", type=int, default=Plan.rows, help="rows of 512 tokens per step")
    return parser


def _tell(message: str) -> None:
    """Write a line for the user."""
    sys.stderr.write(message + "\n")


def main(argv: list[str] | None = None) -> int:
    """Train, then print the table."""
    args = arguments().parse_args(argv)
    folder = RunFolder(args.out)
    folder.check(args.resume)
    vocabulary = args.out / "model.vocab.txt"
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.resume:
        make_vocabulary_file(args.corpus, vocabulary, SEED)
    plan = Plan(
        steps=args.steps,
        minutes=None if args.steps else args.minutes,
        rows=args.rows,
        learning_rate=args.learning_rate,
        processes=args.processes,
        threads=args.threads,
        seed=SEED,
    )
    rows = DemoRows(args.corpus, vocabulary, plan.context, args.prose_share, SEED)
    config = new_config(WorldTokenizer(vocabulary).vocab_size, args.layers, args.width)
    job = Job(config, rows, plan, folder, args.resume)
    with shown(sys.stderr) as report:
        is_done = train(job, report, _tell)
    if not is_done:
        _tell(f"stopped; go on with --resume ({job.folder.checkpoint})")
        return 1
    from wkv.demo.evaluate import main as evaluate

    return evaluate([str(job.folder.model), "--corpus", str(args.corpus)])


if __name__ == "__main__":
    sys.exit(main())
