"""LAMBADA: can a model say the last word of a passage? With the protocol of RWKV's own figures.

    src, dst = all before the last blank, " " + the last word          encoded separately
    lp   = sum over i of log softmax(logits before dst i)[dst i]       natural log, float32 softmax
    ppl  = exp(-sum of lp / documents)                                 per document, not per token
    acc  = 100 * documents whose dst ids were all the most probable / documents

Every document begins from the empty state. Generation 7 and 7a of the World vocabulary read id 0
before src, as their authors measure them; the others read nothing.
Source: BlinkDL's run_lambada scripts of RWKV-LM and ChatRWKV.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from wkv.errors import InputError
from wkv.evaluate.documents import split
from wkv.evaluate.results_file import ResultFile
from wkv.evaluate.scoring import Pair, Score, score
from wkv.inference.model import Model
from wkv.tokenizers import Tokenizer
from wkv.tokenizers.world import WORLD_VOCAB_SIZE

REPORT_EVERY = 100
"""Documents between two reports, as everyone prints them."""

BEGINS = ("auto", "0", "none")
"""What is read before a document: id 0, nothing, or (auto) what the generation was trained with."""


@dataclass(frozen=True)
class Measurement:
    """What a model did so far.

    Attributes:
        count: documents.
        log_probability: sum over them.
        correct: how many had all ids right.
        tokens: read in this run; documents taken from a result file are not read again.
        seconds: that took.
    """

    count: int = 0
    log_probability: float = 0.0
    correct: int = 0
    tokens: int = 0
    seconds: float = 0.0

    @property
    def ppl(self) -> float:
        """Perplexity per document; infinite where it has no float."""
        try:
            return math.exp(-self.log_probability / self.count)
        except OverflowError:
            return math.inf

    @property
    def acc(self) -> float:
        """Percent of the documents that were right."""
        return 100 * self.correct / self.count

    def plus(self, result: Score) -> "Measurement":
        """With one more document."""
        return replace(
            self,
            count=self.count + 1,
            log_probability=self.log_probability + result.log_probability,
            correct=self.correct + result.is_greedy,
        )

    def after(self, tokens: int, seconds: float) -> "Measurement":
        """With more work done."""
        return replace(self, tokens=self.tokens + tokens, seconds=self.seconds + seconds)


def begin_ids(model: Model, begin: str) -> list[int]:
    """The ids that are read before a text.

    Args:
        model: any loaded model.
        begin: one of BEGINS.
    """
    if begin not in BEGINS:
        raise InputError(f"begin is {begin!r}, expected one of {', '.join(BEGINS)}")
    config = model.config
    trained_so = config.generation in ("7", "7a") and config.vocab_size == WORLD_VOCAB_SIZE
    return [0] if begin == "0" or (begin == "auto" and trained_so) else []


def pair_of(text: str, number: int, tokenizer: Tokenizer, begin: Sequence[int]) -> Pair:
    """A document as ids.

    Raises:
        InputError: if nothing comes before the last word, and no id is read before the text.
    """
    src, dst = split(text, f"document {number}")
    context = [*begin, *tokenizer.encode(src)]
    if not context:
        raise InputError(
            f"document {number} has nothing before its last word {dst[:40]!r}; remove it, or read "
            "id 0 before each document with --begin 0"
        )
    return Pair(context, tokenizer.encode(dst))


def measure(
    models: Sequence[Model],
    texts: Sequence[str],
    *,
    begin: str = "auto",
    batch_size: int = 8,
    results: ResultFile | None = None,
    on_scored: Callable[[int], object] | None = None,
) -> Iterator[tuple[Measurement, ...]]:
    """Measure models on the same documents, side by side.

    Documents are taken in windows, within which those of like length pass together; so what is
    reported after 100 documents is of the file's first 100, and memory does not grow.

    Args:
        models: one or more.
        texts: the documents.
        begin: one of BEGINS.
        batch_size: rows that pass a model together; changes the figures by rounding only.
        results: where the result of each document is kept; what it holds is not measured again.
        on_scored: told how many documents were done, for each model.

    Yields:
        A measurement for each model, after every 100 documents and after the last.

    Raises:
        InputError: for a document that cannot be split.
    """
    window = REPORT_EVERY * max(1, math.ceil(4 * batch_size / REPORT_EVERY))
    totals = tuple(Measurement() for _ in models)
    begins = [begin_ids(model, begin) for model in models]
    kept = results.resume(len(texts), window) if results is not None else []
    if on_scored is not None:
        on_scored(len(kept) * len(models))
    for start in range(0, len(texts), window):
        rows = kept[start : start + window]
        if not rows:
            columns = []
            for place, (model, ids) in enumerate(zip(models, begins, strict=True)):
                since = time.perf_counter()
                numbered = enumerate(texts[start : start + window], start=start + 1)
                pairs = [pair_of(text, n, model.tokenizer, ids) for n, text in numbered]
                columns.append(score(model, pairs, batch_size, on_scored))
                read = sum(len(pair.context) + len(pair.target) for pair in pairs)
                spent = totals[place].after(read, time.perf_counter() - since)
                totals = (*totals[:place], spent, *totals[place + 1 :])
            rows = list(zip(*columns, strict=True))
            if results is not None:
                results.append(rows)
        for row in rows:
            totals = tuple(total.plus(one) for total, one in zip(totals, row, strict=True))
            if totals[0].count % REPORT_EVERY == 0 or totals[0].count == len(texts):
                yield totals
