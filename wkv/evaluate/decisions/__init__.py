"""Decisions: typed questions about a text, answered by probabilities.

    wkv.decide(model, text, [Question.predicate("Is it about music?")])

The text is read once. Each question continues from the state after it and is answered by the
logits of one position. Nothing is sampled.
"""

from wkv.evaluate.decisions.answer import Answer
from wkv.evaluate.decisions.ask import Decisions, decide, decision_steps
from wkv.evaluate.decisions.question import Option, Question

__all__ = ["Answer", "Decisions", "Option", "Question", "decide", "decision_steps"]
