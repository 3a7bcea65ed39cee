"""The built-in model's held-out questions, each with one right answer.

They are stored in `questions.jsonl`, next to the model. `recipes/demo_model` generates them and
excludes them from the training text.
"""

import json
from collections.abc import Sequence
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from wkv.demo import QUESTIONS, VOCABULARY
from wkv.errors import TokenizerError
from wkv.evaluate.questions import Question
from wkv.inference.model import Model
from wkv.tokenizers import Tokenizer
from wkv.tokenizers.world import WorldTokenizer


class Examined(Protocol):
    """The part of a model that `accuracy` uses."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the model."""
        ...

    def logits(self, ids: Tensor) -> Tensor:
        """Return the logits (B, T, V) float32 of ids (B, T), from the empty state."""
        ...


@cache
def questions() -> dict[str, list[tuple[str, str]]]:
    """Return pairs of prompt and answer for each kind of exercise."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for line in QUESTIONS.read_text(encoding="utf-8").splitlines():
        item = json.loads(line)
        kinds.setdefault(item["kind"], []).append((item["prompt"], item["answer"]))
    return kinds


def some_questions(count: int) -> list[Question]:
    """Return the first `count` questions of each kind."""
    return [Question(*pair) for pairs in questions().values() for pair in pairs[:count]]


def knows_exercises(model: Model) -> bool:
    """Return whether a model has the vocabulary of the built-in model, which learned exercises."""
    try:
        tokenizer = model.tokenizer
    except TokenizerError:
        return False
    if not isinstance(tokenizer, WorldTokenizer):
        return False
    return dict(tokenizer.entries) == dict(WorldTokenizer(VOCABULARY).entries)


@torch.no_grad()
def accuracy(model: Examined, items: Sequence[tuple[str, str]], batch: int = 50) -> float:
    """Return the share of items that a model answers exactly with greedy decoding.

    One forward pass over prompt and answer is sufficient: greedy decoding returns the answer if and
    only if each of its tokens is the most likely one after all tokens before it.

    Args:
        model: the model to examine.
        items: pairs of prompt and answer.
        batch: number of rows per batch.
    """
    right = 0
    encode = model.tokenizer.encode
    for start in range(0, len(items), batch):
        pairs = [
            (encode(prompt), encode(f" {answer}\n\n"))
            for prompt, answer in items[start : start + batch]
        ]
        longest = max(len(prompt) + len(answer) for prompt, answer in pairs)
        ids = torch.tensor([[*p, *a, *[0] * (longest - len(p) - len(a))] for p, a in pairs])
        best = model.logits(ids[:, :-1]).argmax(-1)
        for row, (prompt, answer) in enumerate(pairs):
            end = len(prompt) + len(answer) - 1
            right += best[row, len(prompt) - 1 : end].tolist() == answer
    return right / len(items)
