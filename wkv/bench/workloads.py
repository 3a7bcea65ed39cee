"""What is measured: a call of the model with so many rows of so many tokens."""

from dataclasses import dataclass

BATCHES = (1, 4, 16, 64)
"""Rows that decode together."""

PROMPTS = (128, 512, 2048)
"""Tokens of a prompt."""


@dataclass(frozen=True)
class Task:
    """One kind of call.

    Attributes:
        kind: "decode", one token a row after others, or "prefill", a prompt from the empty state.
        rows: in the batch.
        tokens: of each row and call.
        skip_zeros: False where the native engine is told to read what it could skip.
    """

    kind: str
    rows: int
    tokens: int
    skip_zeros: bool = True

    @property
    def all_tokens(self) -> int:
        """Tokens of one call, over all rows."""
        return self.rows * self.tokens

    @property
    def name(self) -> str:
        """In words."""
        if self.kind == "prefill":
            return f"prefill, {self.tokens} tokens"
        return f"decode, batch {self.rows}" + ("" if self.skip_zeros else ", zeros read too")


def tasks_for(engine: str) -> tuple[Task, ...]:
    """What is measured of an engine; only the native one can be told to read zeros."""
    first, *others = (Task("decode", rows, 1) for rows in BATCHES)
    dense = [Task("decode", 1, 1, skip_zeros=False)] if engine == "native" else []
    return (first, *dense, *others, *(Task("prefill", 1, tokens) for tokens in PROMPTS))
