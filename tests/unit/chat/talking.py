"""Models with predetermined replies, and helpers that use a chat."""

from dataclasses import replace

import torch

from wkv.chat import ChatReply, answer


class PreferringModel:
    """A model whose most probable next token depends only on the last token that it read.

    `after` maps the last id to the next one; any other id is followed by `else_`.
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
        logits[ord("z") + 1] = 20.0  # the second choice, a letter in the World vocabulary
        return logits, replace(state, logits=logits[None])


class ScriptedModel(PreferringModel):
    """A model that prefers the same sequence of ids after every prompt."""

    def __init__(self, model, script):
        super().__init__(model, script[0])
        self._script = script
        self._place = 0

    def forward(self, ids, state=None, **options):
        self._place = 0 if torch.as_tensor(ids).numel() > 1 else self._place + 1
        self._else = self._script[min(self._place, len(self._script) - 1)]
        return super().forward(ids, state, **options)


def say(conversation, message, **options):
    """Send a message and return the text of the reply."""
    reply = conversation.reply(message, **options)
    text = "".join(reply)
    conversation.finish(reply)
    return text


def type_line(session, line):
    """Type a line and return the notice, or the text of the reply."""
    outcome = answer(session, line)
    if not isinstance(outcome, ChatReply):
        return getattr(outcome, "text", None)
    text = "".join(outcome)
    session.finish(outcome)
    return text


def same(first, second):
    """Return whether two states are equal up to rounding."""
    pairs = zip(first.layers, second.layers, strict=True)
    return first.tokens_seen == second.tokens_seen and all(
        torch.allclose(a.wkv, b.wkv, atol=1e-3) for a, b in pairs
    )
