"""The tasks of the benchmark: calls of the model with different numbers of rows and tokens."""

from dataclasses import dataclass

BATCHES = (1, 4, 16, 64)
"""Batch sizes for decoding."""

PROMPTS = (128, 512, 2048)
"""Prompt lengths in tokens."""


@dataclass(frozen=True)
class Task:
    """One kind of call of the model.

    Attributes:
        kind: "decode" (one token per row after others) or "prefill" (a prompt from the empty
            state).
        rows: number of rows in the batch.
        tokens: number of tokens per row and call.
        skip_zeros: whether the native engine may skip weights whose inputs are zero.
    """

    kind: str
    rows: int
    tokens: int
    skip_zeros: bool = True

    @property
    def all_tokens(self) -> int:
        """The number of tokens of one call, over all rows."""
        return self.rows * self.tokens

    @property
    def name(self) -> str:
        """The name of the task in tables and reports."""
        if self.kind == "prefill":
            return f"prefill, {self.tokens} tokens"
        return f"decode, batch {self.rows}" + ("" if self.skip_zeros else ", zeros read too")


def tasks_for(engine: str) -> tuple[Task, ...]:
    """Return the tasks for an engine; only the native engine can skip zeros or not."""
    first, *others = (Task("decode", rows, 1) for rows in BATCHES)
    dense = [Task("decode", 1, 1, skip_zeros=False)] if engine == "native" else []
    return (first, *dense, *others, *(Task("prefill", 1, tokens) for tokens in PROMPTS))
