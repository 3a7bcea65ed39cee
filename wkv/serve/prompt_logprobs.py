"""Logprobs of the tokens of prompts, for completions that repeat their prompt.

Evaluations such as lm-eval compare how probable several texts are: each is sent as a prompt, of
which the model generates next to nothing.
"""

from collections.abc import Generator, Sequence

import torch

from wkv.batching import Request
from wkv.inference.model import Model
from wkv.inference.sampling import SampledToken, with_logprobs

PromptLogprob = tuple[int, SampledToken | None]
"""A token, and its logprobs; None for a first token that nothing precedes."""

CHUNK = 64
"""Tokens that are read at once, because the logits after each of them need memory."""


def prompt_logprobs(
    model: Model, requests: Sequence[Request]
) -> Generator[None, None, list[list[PromptLogprob]]]:
    """Compute the logprobs of each prompt's tokens; a step reads a chunk."""
    prompts = []
    for request in requests:
        found: list[PromptLogprob] = []
        state = request.start
        last = None if state is None else state.logits  # (1, V)
        for begin in range(0, len(request.ids), CHUNK):
            ids = request.ids[begin : begin + CHUNK]
            logits, state = model.forward(list(ids), state, all_logits=True)
            if last is None:
                found.append((ids[0], None))
                ids = ids[1:]
            before = logits[:-1] if last is None else torch.cat([last.to(logits), logits[:-1]])
            sampled = with_logprobs(before, ids, request.top_logprobs or 0)
            found += zip(ids, sampled, strict=True)
            last = logits[-1:]
            yield
        prompts.append(found)
    return prompts
