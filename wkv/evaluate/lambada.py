"""LAMBADA, the prediction of a passage's last word, with the protocol of RWKV's published results.

    src, dst = all before the last blank, " " + the last word          encoded separately
    lp   = sum over i of log softmax(logits before dst i)[dst i]       natural log, float32 softmax
    ppl  = exp(-sum of lp / documents)                                 per document, not per token
    acc  = 100 * documents whose dst ids were all the most probable / documents

Every document starts from the empty state. Models of generation 7 and 7a with the World vocabulary
read id 0 before src, as in their authors' measurements; other models read nothing before it.
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
from wkv.inference.prefill import first_ids
from wkv.tokenizers import Tokenizer

REPORT_EVERY = 100
"""Number of documents between two reports, as in RWKV's own scripts."""

BEGINS = ("auto", "0", "none")
"""Values of `begin`: read id 0 before a document, nothing, or (auto) as the model was trained."""


@dataclass(frozen=True)
class Measurement:
    """The results of a model on the documents so far.

    Attributes:
        count: number of documents.
        log_probability: sum of the documents' log probabilities.
        correct: number of documents with all ids predicted correctly.
        tokens: tokens read in this run, without documents whose results came from a file.
        seconds: time for reading them.
    """

    count: int = 0
    log_probability: float = 0.0
    correct: int = 0
    tokens: int = 0
    seconds: float = 0.0

    @property
    def ppl(self) -> float:
        """The perplexity per document, or infinity if it is too large for a float."""
        try:
            return math.exp(-self.log_probability / self.count)
        except OverflowError:
            return math.inf

    @property
    def acc(self) -> float:
        """The percentage of correct documents."""
        return 100 * self.correct / self.count

    def plus(self, result: Score) -> "Measurement":
        """Return the measurement with one more document."""
        return replace(
            self,
            count=self.count + 1,
            log_probability=self.log_probability + result.log_probability,
            correct=self.correct + result.is_greedy,
        )

    def after(self, tokens: int, seconds: float) -> "Measurement":
        """Return the measurement with more tokens and seconds."""
        return replace(self, tokens=self.tokens + tokens, seconds=self.seconds + seconds)


def begin_ids(model: Model, begin: str) -> list[int]:
    """Return the ids to read before each text.

    Args:
        model: any loaded model.
        begin: one of BEGINS.

    Raises:
        InputError: for another `begin`.
    """
    if begin not in BEGINS:
        raise InputError(f"begin is {begin!r}, expected one of {', '.join(BEGINS)}")
    if begin == "auto":
        return list(first_ids(model))
    return [0] if begin == "0" else []


def pair_of(text: str, number: int, tokenizer: Tokenizer, begin: Sequence[int]) -> Pair:
    """Tokenize a document into context and target.

    Raises:
        InputError: if there is nothing before the last word, and no id is read before the text.
    """
    src, dst = split(text, f"document {number}")
    context = [*begin, *tokenizer.encode(src)]
    if not context:
        raise InputError(
            f"document {number} has nothing before its last word {dst[:40]!r}; remove it, or use "
            "--begin 0 to read id 0 before each document"
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
    """Measure one or more models on the same documents.

    Documents are processed in windows, and batches are formed of documents of similar length within
    a window. So the report after 100 documents covers the first 100 of the file, and memory use
    does not grow.

    Args:
        models: one or more models.
        texts: the documents.
        begin: one of BEGINS.
        batch_size: number of documents per batch; only affects rounding errors.
        results: file to store the result of each document in; documents it already contains are
            not measured again.
        on_scored: called with the number of documents that a model has just finished.

    Yields:
        A measurement for each model, after every 100 documents and after the last.

    Raises:
        InputError: for a document that cannot be split.
    """
    window = REPORT_EVERY * max(1, math.ceil(4 * batch_size / REPORT_EVERY))
    totals = tuple(Measurement() for _ in models)
    begins = [begin_ids(model, begin) for model in models]
    stored = results.resume(len(texts), window) if results is not None else []
    if on_scored is not None:
        on_scored(len(stored) * len(models))
    for start in range(0, len(texts), window):
        rows = stored[start : start + window]
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
