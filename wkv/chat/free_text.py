"""Free generation beside a chat, which it never disturbs: go on with a text, try again, go on more.

    begin: gen_0 = the text that was read ; finish: gen_1 = that and what was added
    again: from gen_0 ; further: gen_0 = gen_1, from there

Both are states with the logits as the model gave them: penalties never enter. Source of the forms:
ChatRWKV, chat.py.
"""

from dataclasses import dataclass

from wkv.chat import newline_rules
from wkv.chat.conversation import Moment
from wkv.chat.reply import SLACK, Reply
from wkv.chat.settings import Settings
from wkv.errors import InputError
from wkv.inference.model import Model
from wkv.inference.prefill import Prefilled, Progress, prefill
from wkv.inference.stream import stream
from wkv.models.state import State
from wkv.prompting.template import SEPARATOR, clean, instruction, left_to_read

LENGTH = 256

ANSWER_NEWLINE = -2.0
"""Added to the logits of newlines in `+qa`, where an answer is wanted and no essay."""


@dataclass(frozen=True)
class Text:
    """A text to go on with.

    Attributes:
        prompt: what is read.
        state: after this state; None is the empty one.
        stop: where it ends, beside the end of the document.
        newline: added to the logits of newlines, under a preset with a schedule.
        goes_on: what is added belongs to the prompt's last line.
    """

    prompt: str
    state: State | None = None
    stop: tuple[str, ...] = ()
    newline: float = 0.0
    goes_on: bool = False


def continuation(text: str) -> Text:
    """Any text, `+gen`."""
    return Text("\n" + _wanted(text), goes_on=True)


def task(text: str) -> Text:
    """An instruction, `+i`."""
    return Text(instruction(clean(text)), stop=("\n\n# Instruction:",))


def question(text: str) -> Text:
    """A question without any conversation, `+qq`."""
    return Text(f"\nQ: {_wanted(text)}\nA:", stop=("\nQ:",))


def chat_question(text: str, moment: Moment, *, is_short: bool) -> Text:
    """A question as in a chat that has just begun, `+qa`; a short answer has no blank line."""
    template, opening = moment.template, moment.opening
    prompt = left_to_read(template.turn(_wanted(text)), opening.ahead)
    stop = SEPARATOR if is_short else template.next_turn
    return Text(prompt, opening.state, (stop,), ANSWER_NEWLINE)


def _wanted(text: str) -> str:
    if not text.strip():
        raise InputError("there is no text; write it after the command")
    return text.strip()


class FreeText:
    """The last free generation of a session.

    Attributes:
        length: tokens that are added at a time, if the text does not end before.
    """

    def __init__(self, model: Model, length: int = LENGTH) -> None:
        self.length = length
        self._model = model
        self._text = Text("")
        self._begin: Prefilled | None = None  # gen_0
        self._end: Prefilled | None = None  # gen_1

    def begin(self, text: Text, settings: Settings, progress: Progress | None = None) -> Reply:
        """Read a text and begin to go on with it; when that has ended, call `finish`."""
        self._begin, self._end = prefill(self._model, [text.prompt], text.state, progress), None
        self._text = text
        return self._from(self._begin, settings, self._begin)

    def again(self, settings: Settings) -> Reply | None:
        """Another continuation of the same place; None if nothing was generated before."""
        return None if self._begin is None else self._from(self._begin, settings)

    def further(self, settings: Settings) -> Reply | None:
        """Go on from where the last one ended; None if nothing was generated before."""
        if self._end is None:
            return None
        self._begin = self._end
        return self._from(self._begin, settings, goes_on=True)

    def finish(self, reply: Reply) -> None:
        """Keep the state after a continuation."""
        assert self._begin is not None
        done = reply.result
        last = done.token_ids[-1] if done.token_ids else self._begin.last_token
        self._end = Prefilled(done.state, 0, last, 0.0)

    def _from(
        self,
        place: Prefilled,
        settings: Settings,
        reading: Prefilled | None = None,
        goes_on: bool = False,
    ) -> Reply:
        """Go on from a place."""
        logits_processor = None
        if settings.preset.scheduled:
            tokenizer = self._model.tokenizer
            logits_processor = newline_rules.for_free_text(
                tokenizer, place.last_token, self._text.newline
            )
        pieces = stream(
            self._model,
            "",
            sampling=(settings.prose if self._text.goes_on else None) or settings.sampling,
            max_tokens=self.length + SLACK,
            stop=self._text.stop,
            state=place.state,
            logits_processor=logits_processor,
        )
        return Reply(
            self._model,
            pieces,
            owner=self,
            limit=self.length,
            reading=reading,
            goes_on=goes_on or self._text.goes_on,
            is_free=True,
        )
