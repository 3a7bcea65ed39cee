"""Models that want to say a certain thing, and talking to a chat."""

from dataclasses import replace

import torch

from wkv.chat import Reply, answer


class Wishful:
    """A model whose most probable next token is told by the last one read.

    `after` maps the last id to the next; all others are followed by `else_`.
    """

    def __init__(self, model, else_, after=()):
        self._model = model
        self._else = else_
        self._after = dict(after)

    def __getattr__(self, name):
        return getattr(self._model, name)

    def forward(self, ids, state=None, **options):
        _, state = self._model.forward(ids, state, **options)
        last = int(torch.as_tensor(ids).reshape(-1)[-1])
        logits = torch.zeros(self._model.config.vocab_size)
        logits[self._after.get(last, self._else)] = 30.0
        logits[ord("z") + 1] = 20.0  # the second wish; in the World vocabulary too, it is a letter
        return logits, replace(state, logits=logits[None])


class Scripted(Wishful):
    """A model that wants to say the same ids after every prompt."""

    def __init__(self, model, script):
        super().__init__(model, script[0])
        self._script = script
        self._place = 0

    def forward(self, ids, state=None, **options):
        self._place = 0 if torch.as_tensor(ids).numel() > 1 else self._place + 1
        self._else = self._script[min(self._place, len(self._script) - 1)]
        return super().forward(ids, state, **options)


def say(conversation, message, **options):
    """Send a message and give the reply's text."""
    reply = conversation.reply(message, **options)
    text = "".join(reply)
    conversation.finish(reply)
    return text


def type_line(session, line):
    """Type a line and give the notice, or the reply's text."""
    outcome = answer(session, line)
    if not isinstance(outcome, Reply):
        return getattr(outcome, "text", None)
    text = "".join(outcome)
    session.finish(outcome)
    return text


def same(first, second):
    """Whether two states are the same up to rounding."""
    pairs = zip(first.layers, second.layers, strict=True)
    return first.tokens_seen == second.tokens_seen and all(
        torch.allclose(a.wkv, b.wkv, atol=1e-3) for a, b in pairs
    )
