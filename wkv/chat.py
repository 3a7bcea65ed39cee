"""A conversation: turns in, replies out, the history kept as a state and never read again."""

import re
from dataclasses import dataclass

from wkv import demo
from wkv.errors import InputError
from wkv.model import Model
from wkv.sampling import Sampling
from wkv.state import State
from wkv.streaming import Stream, stream
from wkv.tokenizers.choose import PILE_VOCAB_SIZES

TURN_END = "\n\n"
MAX_REPLY = 1000

CHAT_SAMPLING = Sampling(
    temperature=1.0, top_p=0.3, presence_penalty=0.5, frequency_penalty=0.5, penalty_decay=0.996
)
"""For World and G1 models. Source: ChatRWKV, API_DEMO_CHAT."""

EXACT_SAMPLING = Sampling(temperature=0, presence_penalty=0, frequency_penalty=0)
"""For the built-in model, whose exercises have one right answer."""


@dataclass(frozen=True)
class Template:
    """The names of the two speakers, as a model was trained on them."""

    user: str = "User"
    bot: str = "Assistant"

    def turn(self, message: str) -> str:
        """A user's turn and the beginning of the reply; no blank follows the last colon."""
        return f"{self.user}: {message}{TURN_END}{self.bot}:"


def template_for(model: Model) -> Template:
    """The speakers of Raven for models with the 20B vocabulary, of World for all others."""
    return Template("Bob", "Alice") if model.config.vocab_size in PILE_VOCAB_SIZES else Template()


def sampling_for(model: Model) -> Sampling:
    """How a model's replies are drawn unless the user says otherwise."""
    return EXACT_SAMPLING if model.path == demo.WEIGHTS else CHAT_SAMPLING


def clean(message: str) -> str:
    """A message that holds no turn's end: blank lines go, and blanks at both ends.

    Raises:
        InputError: if nothing is left.
    """
    cleaned = re.sub(r"\n{2,}", "\n", message.replace("\r\n", "\n")).strip()
    if not cleaned:
        raise InputError("the message is empty; type some text")
    return cleaned


class Conversation:
    """Turns with one model.

    Attributes:
        state: the state after the last whole turn; None before the first.
    """

    def __init__(self, model: Model, sampling: Sampling) -> None:
        self.state: State | None = None
        self._model = model
        self._sampling = sampling
        self._template = template_for(model)
        self._turn_ended = True

    def reply(self, message: str) -> Stream:
        """The reply to a message, as a stream; when it is done, call `finish` with it."""
        prompt = self._template.turn(clean(message))
        if not self._turn_ended:
            prompt = TURN_END + prompt
        return stream(
            self._model,
            prompt,
            sampling=self._sampling,
            max_tokens=MAX_REPLY,
            stop=TURN_END,
            state=self.state,
        )

    def finish(self, reply: Stream) -> None:
        """Keep the state after a reply; the next turn goes on from it."""
        done = reply.result
        ended_by_string = done.finish_reason == "stop" and self._model.tokenizer.decode(
            done.token_ids
        ).endswith(TURN_END)
        self._turn_ended = ended_by_string
        self.state = done.state
