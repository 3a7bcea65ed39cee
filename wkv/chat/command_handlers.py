"""Handlers of the chat commands; `wkv.chat.commands` maps names to them."""

import time
from dataclasses import replace
from pathlib import Path

from wkv.chat import free_text
from wkv.chat.outcomes import CommandRequest, Notice, Outcome
from wkv.chat.prompt_files import read_prompt
from wkv.chat.reply import ChatReply
from wkv.chat.session import Session
from wkv.chat.settings import KEYS, can_think, changed, shown
from wkv.errors import InputError
from wkv.files import read_text
from wkv.prompting.presets import ends_at_blank_line
from wkv.prompting.template import Thinking

AMOUNTS = {
    "": Thinking.FREE,
    "some": Thinking.SOME,
    "a bit": Thinking.A_BIT,
    "a lot": Thinking.A_LOT,
    "off": Thinking.PLAIN,
}
"""Arguments of `+think`."""


def reply(session: Session, request: CommandRequest) -> Outcome:
    """Reply to a message."""
    settings = session.settings(request.options)
    answer = session.conversation.reply(request.argument, settings, session.progress)
    return _started(session, answer)


def again(session: Session, request: CommandRequest) -> Outcome:
    """Start another reply to the last message."""
    settings = session.settings(request.options)
    answer = session.conversation.again(settings, session.progress)
    return _started(session, answer, "nothing_to_repeat")


def undo(session: Session, request: CommandRequest) -> Outcome:
    """Undo the last change of the conversation."""
    if not session.conversation.undo():
        return Notice(session.say("nothing_to_undo"))
    return Notice(session.say("undone", turns=session.facts["turns"]))


def reset(session: Session, request: CommandRequest) -> Outcome:
    """Return to the opening."""
    session.conversation.reset()
    return Notice(session.say("reset"))


def prompt(session: Session, request: CommandRequest) -> Outcome:
    """Start a new conversation from a prompt file."""
    opening = read_prompt(request.argument)
    session.conversation.begin(opening, session.progress)
    template = opening.template
    return Notice(session.say("prompt", user=template.user, bot=template.bot))


def system(session: Session, request: CommandRequest) -> Outcome:
    """Start a new conversation with a system prompt."""
    session.conversation.system(request.argument, session.progress)
    return Notice(session.say("system"))


def read(session: Session, request: CommandRequest) -> Outcome:
    """Read a text file into the conversation."""
    path = Path(request.argument)
    document = read_text(path)
    if not document.strip():
        raise InputError(f"{path}: there is no text in this file")
    begun = time.perf_counter()
    prefilled = session.conversation.read(document, session.progress)
    session.counts.add_read(prefilled)
    seconds = time.perf_counter() - begun
    return Notice(session.say("read", name=path.name, tokens=prefilled.n_tokens, seconds=seconds))


def save(session: Session, request: CommandRequest) -> Outcome:
    """Save the conversation to a file."""
    path = session.store.save(request.argument, session.conversation, session.model)
    return Notice(session.say("saved", path=path))


def load(session: Session, request: CommandRequest) -> Outcome:
    """Switch to a conversation in memory, or replace the present one by a saved one."""
    name = request.argument
    if name in session.conversations:
        session.switch(name)
        return Notice(session.say("switched", name=name, turns=session.facts["turns"]))
    session.conversation.replace_by(session.store.load(name, session.model))
    return Notice(session.say("loaded", name=name, turns=session.facts["turns"]))


def fork(session: Session, request: CommandRequest) -> Outcome:
    """Continue in a copy of the conversation."""
    before = session.name
    session.fork(request.argument)
    return Notice(session.say("forked", name=session.name, before=before))


def list_chats(session: Session, request: CommandRequest) -> Outcome:
    """List the conversations in memory and the saved chats."""
    names = (f"*{name}" if name == session.name else name for name in session.conversations)
    lines = [session.say("in_memory", names=session.join(names))]
    saved = session.store.list(session.model)
    lines.append(
        session.say("on_disk", names=session.join(saved.names) or "-", folder=session.store.folder)
    )
    if saved.others:
        lines.append(session.say("of_others", count=saved.others))
    if saved.unreadable:
        lines.append(session.say("unreadable", count=saved.unreadable))
    return Notice("\n".join(lines))


def generate(session: Session, request: CommandRequest) -> Outcome:
    """Continue a text."""
    return _free(session, request, free_text.continuation(request.argument))


def instruct(session: Session, request: CommandRequest) -> Outcome:
    """Follow an instruction."""
    return _free(session, request, free_text.task(request.argument, session.model))


def ask(session: Session, request: CommandRequest) -> Outcome:
    """Answer a question outside the conversation."""
    return _free(session, request, free_text.question(request.argument, session.model))


def ask_in_chat(session: Session, request: CommandRequest) -> Outcome:
    """Answer a question directly after the opening of the conversation."""
    preset = session.conversation.settings.preset
    # ChatRWKV allows paragraphs in these answers, and makes newlines less probable instead.
    is_short = ends_at_blank_line(session.model, preset) and not preset.has_newline_rules
    now = session.conversation.now
    return _free(
        session, request, free_text.chat_question(request.argument, now, is_short=is_short)
    )


def further(session: Session, request: CommandRequest) -> Outcome:
    """Continue the last free text."""
    settings = session.settings(request.options)
    return _started(session, session.free.further(settings), "nothing_generated")


def generate_again(session: Session, request: CommandRequest) -> Outcome:
    """Replace the last free text by another continuation."""
    settings = session.settings(request.options)
    return _started(session, session.free.again(settings), "nothing_generated")


def think(session: Session, request: CommandRequest) -> Outcome:
    """Select how much the model thinks before it answers."""
    amount = " ".join(request.argument.lower().split())
    if amount not in AMOUNTS:
        usage = session.language.usage("+think", "amount")
        return Notice(session.say("usage", usage=usage))
    return _set_thinking(session, AMOUNTS[amount])


def think_nothing(session: Session, request: CommandRequest) -> Outcome:
    """Make the model answer without thinking."""
    return _set_thinking(session, Thinking.SKIPPED)


def change(session: Session, request: CommandRequest) -> Outcome:
    """Display the settings, or change one."""
    conversation = session.conversation
    if not request.argument:
        return Notice(shown(conversation.settings))
    key, _, value = request.argument.replace("=", " ", 1).partition(" ")
    if key not in KEYS or not value.strip():
        usage = session.language.usage("+set", "setting")
        return Notice(session.say("usage_set", usage=usage, keys=session.join(KEYS)))
    conversation.settings = changed(conversation.settings, key, value.strip())
    return Notice(shown(conversation.settings))


def stats(session: Session, request: CommandRequest) -> Outcome:
    """Display the statistics of the session."""
    facts = session.facts
    lines = [session.say("stats", **facts)]
    if facts["drafted"]:
        lines.append(session.say("stats_drafts", **facts))
    return Notice("\n".join(lines))


def _set_thinking(session: Session, mode: Thinking) -> Notice:
    conversation = session.conversation
    if mode is not Thinking.PLAIN and not can_think(session.model):
        return Notice(session.say("cannot_think"))
    conversation.settings = replace(conversation.settings, thinking=mode)
    return Notice(session.say("thinking_" + mode.name.lower()))


def _free(session: Session, request: CommandRequest, text: free_text.FreeTextPrompt) -> Outcome:
    settings = session.settings(request.options)
    return _started(session, session.free.begin(text, settings, session.progress))


def _started(session: Session, reply: ChatReply | None, missing: str = "") -> Outcome:
    """Count and return a reply, or return the notice `missing` if there is none."""
    if reply is None:
        return Notice(session.say(missing))
    session.count_reply(reply)
    return reply
