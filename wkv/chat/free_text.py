"""Free text generation beside a chat, which it does not change: continue a text, retry, go on.

    begin: gen_0 = the state after the prompt ; finish: gen_1 = the state after the added text
    again: continue from gen_0 ; further: gen_0 = gen_1, continue from there

Both are states with the model's own logits, without penalties. Source of the prompt formats:
ChatRWKV, chat.py.
"""

from dataclasses import dataclass

from wkv.chat import newline_rules
from wkv.chat.conversation import Snapshot
from wkv.chat.reply import SLACK, ChatReply
from wkv.chat.settings import ChatSettings
from wkv.errors import InputError
from wkv.inference.model import Model
from wkv.inference.prefill import Prefilled, Progress, prefill
from wkv.inference.speculation import Speculation
from wkv.inference.stream import stream
from wkv.models.state import State
from wkv.prompting.presets import is_built_in
from wkv.prompting.template import SEPARATOR, clean, instruction, template_for, unread_part

LENGTH = 256

ANSWER_NEWLINE = -2.0
"""Added to the logits of newlines in `+qa`, so that the answer is short."""


@dataclass(frozen=True)
class FreeTextPrompt:
    """A prompt that the model continues.

    Attributes:
        prompt: the text to read.
        state: the state that it follows; None is the empty state.
        stop: strings that end the generated text.
        newline: added to the logits of newlines, if the preset has newline rules.
        goes_on: whether the generated text continues the last line of the prompt.
        as_message: whether the prompt is a message of a chat, because the model knows no other
            form.
    """

    prompt: str
    state: State | None = None
    stop: tuple[str, ...] = ()
    newline: float = 0.0
    goes_on: bool = False
    as_message: bool = False


def continuation(text: str) -> FreeTextPrompt:
    """Return the prompt of `+gen`: any text."""
    return FreeTextPrompt("\n" + _checked(text), goes_on=True)


def task(text: str, model: Model) -> FreeTextPrompt:
    """Return the prompt of `+i`: an instruction."""
    if is_built_in(model):
        return _message(text, model)
    return FreeTextPrompt(instruction(clean(text)), stop=("\n\n# Instruction:",))


def question(text: str, model: Model) -> FreeTextPrompt:
    """Return the prompt of `+qq`: a question outside any conversation."""
    if is_built_in(model):
        return _message(text, model)
    return FreeTextPrompt(f"\nQ: {_checked(text)}\nA:", stop=("\nQ:",))


def _message(text: str, model: Model) -> FreeTextPrompt:
    """Return the prompt for a model that was trained on messages of a chat only."""
    prompt = template_for(model).turn(_checked(text))
    return FreeTextPrompt(prompt, stop=(SEPARATOR,), as_message=True)


def chat_question(text: str, conversation: Snapshot, *, is_short: bool) -> FreeTextPrompt:
    """Return the prompt of `+qa`: a question directly after the opening of a conversation.

    A short answer ends at a blank line.
    """
    template, opening = conversation.template, conversation.opening
    prompt = unread_part(template.turn(_checked(text)), opening.read_ahead)
    stop = SEPARATOR if is_short else template.next_turn
    return FreeTextPrompt(prompt, opening.state, (stop,), ANSWER_NEWLINE)


def _checked(text: str) -> str:
    if not text.strip():
        raise InputError("there is no text; write it after the command")
    return text.strip()


class FreeText:
    """The last free text of a session.

    Attributes:
        length: the largest number of tokens that one command adds.
    """

    def __init__(
        self, model: Model, length: int = LENGTH, speculation: Speculation | None = None
    ) -> None:
        """Use a model; `speculation` drafts the tokens."""
        self.length = length
        self._speculation = speculation
        self._model = model
        self._prompt = FreeTextPrompt("")
        self._begin: Prefilled | None = None  # gen_0
        self._end: Prefilled | None = None  # gen_1

    def begin(
        self, prompt: FreeTextPrompt, settings: ChatSettings, progress: Progress | None = None
    ) -> ChatReply:
        """Read a prompt and start to continue it; when the text has ended, pass it to `finish`."""
        self._begin = prefill(self._model, [prompt.prompt], prompt.state, progress)
        self._end, self._prompt = None, prompt
        return self._start(self._begin, settings, self._begin)

    def again(self, settings: ChatSettings) -> ChatReply | None:
        """Start another continuation of the same text; returns None before the first text."""
        return None if self._begin is None else self._start(self._begin, settings)

    def further(self, settings: ChatSettings) -> ChatReply | None:
        """Continue the last text; returns None if no text was generated yet."""
        if self._end is None:
            return None
        self._begin = self._end
        return self._start(self._begin, settings, goes_on=True)

    def finish(self, reply: ChatReply) -> None:
        """Store the state after a continuation."""
        assert self._begin is not None
        done = reply.result
        self._end = Prefilled(done.state, ((*self._begin.ids[0], *done.token_ids),), 0.0)

    def _start(
        self,
        start: Prefilled,
        settings: ChatSettings,
        prefilled: Prefilled | None = None,
        goes_on: bool = False,
    ) -> ChatReply:
        """Start a continuation of a state; `prefilled` is the prompt if it was just read."""
        prompt = self._prompt
        rules = None
        if settings.preset.has_newline_rules:
            tokenizer = self._model.tokenizer
            rules = newline_rules.for_free_text(tokenizer, start.last_token, prompt.newline)
        pieces = stream(
            self._model,
            "",
            sampling=(settings.prose if prompt.goes_on else None) or settings.sampling,
            max_tokens=self.length + SLACK,
            stop=prompt.stop,
            state=start.state,
            logits_processor=rules,
            speculate=self._speculation or "off",
            context=start.ids[0],
        )
        return ChatReply(
            self._model,
            pieces,
            owner=self,
            limit=self.length,
            prefilled=prefilled,
            goes_on=goes_on or prompt.goes_on,
        )

    def note(self, reply: ChatReply) -> str:
        """Return the key of the notice about a finished reply, or ""."""
        if reply.result.finish_reason == "length":
            return "cut_free"
        return "as_message" if self._prompt.as_message and not reply.goes_on else ""
