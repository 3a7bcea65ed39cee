"""Train the demo model: `python -m recipes.demo_model.recipe CORPUS_DIR OUT_DIR [--resume]`.

The training data is books and generated conversations. The result is `model.safetensors`,
`model.vocab.txt` and a table of the model's accuracy. Only an eighth of the rows is prose, so that
the run uses the books about three times. With more, a model of this size would memorize them.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recipes.demo_model.corpus import demo_vocabulary, read_books
from recipes.demo_model.dialogues import write_document
from recipes.demo_model.exercises import Source, words_of
from wkv.errors import TrainingError, WKVError
from wkv.tokenizers.world import WorldTokenizer
from wkv.train.data import Mixture, PackedDocuments, Prose
from wkv.train.initialize import new_config
from wkv.train.progress import shown
from wkv.train.run_folder import RunFolder
from wkv.train.scratch import Job, train
from wkv.train.settings import TrainingSettings, choose
from wkv.train.text import fingerprint

MINUTES = 113.0
SEED = 7
DEFAULTS = {
    "steps": None,
    "minutes": MINUTES,
    "rows": TrainingSettings.rows,
    "learning_rate": TrainingSettings.learning_rate,
    "processes": 2,
    "layers": 6,
    "width": 192,
    "prose_share": 0.13,
}
"""Default options of a new run; a resumed run uses the options with which it was started."""


@dataclass(frozen=True)
class DemoRows:
    """A picklable function that returns the rows of the demo model, equal in every process."""

    corpus: Path
    vocabulary: Path
    context: int
    prose_share: float
    seed: int

    def __call__(self) -> Mixture:
        """Return a mixture of prose and conversations."""
        tokenizer = WorldTokenizer(self.vocabulary)
        texts = [training for training, _ in read_books(self.corpus).values()]
        ids = [np.array(tokenizer.encode(text)) for text in texts]
        paragraph = tokenizer.encode("\n\n")[-1]
        source = demo_source(texts, tokenizer)
        return Mixture(
            Prose(ids, self.context, self.seed, paragraph),
            PackedDocuments(write_document(source), tokenizer.encode, self.context, self.seed),
            self.prose_share,
        )


def demo_source(texts: list[str], tokenizer: WorldTokenizer) -> Source:
    """Return the source of the exercises: the words of the texts, and which are single tokens."""
    words = words_of(texts)
    return Source(words, [word for word in words if len(tokenizer.encode(" " + word)) == 1])


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.demo_model.recipe", description="Train the demo model."
    )
    parser.add_argument(
        "corpus", type=Path, metavar="CORPUS_DIR", help="folder with the six books as .txt files"
    )
    parser.add_argument("out", type=Path, metavar="OUT_DIR", help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="resume from OUT_DIR's checkpoint")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help=f"length of the run (default {MINUTES:g})")
    length.add_argument(
        "--steps", type=int, help="length in steps instead; then the result can be repeated exactly"
    )
    parser.add_argument("--processes", type=int, help="processes (default 2)")
    parser.add_argument(
        "--threads", type=int, default=1, help="threads per process (default %(default)s)"
    )
    parser.add_argument("--layers", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--prose-share", type=float, help="share of the rows that are prose")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--rows", type=int, help="rows of 512 tokens per step")
    return parser


def _print_error(message: str) -> None:
    """Write a line to standard error."""
    sys.stderr.write(message + "\n")


def demo_job(args: argparse.Namespace) -> Job:
    """Create the job of the command line. A resumed run uses the options it was started with."""
    folder = RunFolder(args.out)
    folder.check(args.resume)
    saved = folder.load()["plan"] if args.resume else {}
    options = choose(vars(args), saved, DEFAULTS)
    layers, width = options.pop("layers"), options.pop("width")
    prose_share = options.pop("prose_share")
    if not 0 <= prose_share <= 1:
        raise TrainingError(f"--prose-share is {prose_share}; give a number from 0 to 1")
    settings = TrainingSettings(**options, threads=args.threads, seed=SEED)
    texts = [training for training, _ in read_books(args.corpus).values()]
    tokens = [] if args.resume else demo_vocabulary(texts, Source(words_of(texts)), SEED)
    ids = WorldTokenizer(folder.vocabulary).vocab_size if args.resume else 1 + len(tokens)
    return Job(
        new_config(ids, layers, width),
        DemoRows(args.corpus, folder.vocabulary, settings.context, prose_share, SEED),
        settings,
        folder,
        args.resume,
        source={
            "data": fingerprint(texts),
            "layers": layers,
            "width": width,
            "prose_share": prose_share,
        },
        vocabulary=tokens,
    )


def main(argv: list[str] | None = None) -> int:
    """Train the model, and print the table of its accuracy."""
    args = arguments().parse_args(argv)
    try:
        job = demo_job(args)
        with shown(sys.stderr) as report:
            is_done = train(job, report, _print_error)
    except (WKVError, OSError) as error:
        _print_error(f"recipe: {error}")
        return 1
    if not is_done:
        _print_error(f"stopped; continue with --resume ({job.folder.checkpoint})")
        return 1
    from recipes.demo_model.evaluate import main as evaluate

    return evaluate([str(job.folder.model), "--corpus", str(args.corpus)])


if __name__ == "__main__":
    sys.exit(main())
