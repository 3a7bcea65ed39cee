"""What each command does to a session. `wkv.chat.commands` has their names."""

import time
from dataclasses import replace
from pathlib import Path

from wkv.chat import free_text
from wkv.chat.outcomes import Notice, Outcome, Request
from wkv.chat.prompt_files import read_prompt
from wkv.chat.reply import Reply
from wkv.chat.session import Session
from wkv.chat.settings import KEYS, changed, shown
from wkv.errors import InputError
from wkv.prompting.presets import ends_at_blank_line
from wkv.prompting.template import Thinking

AMOUNTS = {
    "": Thinking.FREE,
    "some": Thinking.SOME,
    "a bit": Thinking.A_BIT,
    "a lot": Thinking.A_LOT,
    "off": Thinking.PLAIN,
}
"""What may follow `+think`."""


def reply(session: Session, request: Request) -> Outcome:
    """Answer a message."""
    settings = session.settings(request.options)
    return _begun(session, session.conversation.reply(request.argument, settings, session.progress))


def again(session: Session, request: Request) -> Outcome:
    """Answer the last message anew."""
    settings = session.settings(request.options)
    return _begun(
        session, session.conversation.again(settings, session.progress), "nothing_to_repeat"
    )


def undo(session: Session, request: Request) -> Outcome:
    """Take back the last turn, or whatever was done last."""
    if not session.conversation.undo():
        return Notice(session.say("nothing_to_undo"))
    return Notice(session.say("undone", turns=session.facts["turns"]))


def reset(session: Session, request: Request) -> Outcome:
    """Begin anew from the opening."""
    session.conversation.reset()
    return Notice(session.say("reset"))


def prompt(session: Session, request: Request) -> Outcome:
    """Begin anew from a prompt file."""
    opening = read_prompt(request.argument)
    session.conversation.begin(opening, session.progress)
    template = opening.template
    return Notice(session.say("prompt", user=template.user, bot=template.bot))


def system(session: Session, request: Request) -> Outcome:
    """Begin anew with a system turn."""
    session.conversation.system(request.argument, session.progress)
    return Notice(session.say("system"))


def read(session: Session, request: Request) -> Outcome:
    """Take a text file into the conversation."""
    path = Path(request.argument)
    try:
        document = path.expanduser().read_bytes().decode("utf-8-sig")
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: the text cannot be read ({error}); give a UTF-8 file") from error
    if not document.strip():
        raise InputError(f"{path}: there is no text in this file")
    begun = time.perf_counter()
    reading = session.conversation.read(document, session.progress)
    session.counts.add_read(reading)
    seconds = time.perf_counter() - begun
    return Notice(session.say("read", name=path.name, tokens=reading.n_tokens, seconds=seconds))


def save(session: Session, request: Request) -> Outcome:
    """Save the conversation as a file."""
    path = session.store.save(request.argument, session.conversation, session.model)
    return Notice(session.say("saved", path=path))


def load(session: Session, request: Request) -> Outcome:
    """Go on in another conversation: one in memory, or a saved one in place of this."""
    name = request.argument
    if name in session.others:
        session.switch(name)
        return Notice(session.say("switched", name=name, turns=session.facts["turns"]))
    session.conversation.replace_by(session.store.load(name, session.model))
    return Notice(session.say("loaded", name=name, turns=session.facts["turns"]))


def fork(session: Session, request: Request) -> Outcome:
    """Go on in a copy."""
    before = session.name
    session.fork(request.argument)
    return Notice(session.say("forked", name=session.name, before=before))


def list_chats(session: Session, request: Request) -> Outcome:
    """Conversations in memory, and saved chats."""
    in_memory = (f"*{name}" if name == session.name else name for name in session.others)
    lines = [session.say("in_memory", names=session.listed(in_memory))]
    found = session.store.list(session.model)
    names = session.listed(found.names) or "-"
    lines.append(session.say("on_disk", names=names, folder=session.store.folder))
    if found.others:
        lines.append(session.say("of_others", count=found.others))
    if found.unreadable:
        lines.append(session.say("unreadable", count=found.unreadable))
    return Notice("\n".join(lines))


def generate(session: Session, request: Request) -> Outcome:
    """Go on with a text."""
    return _free(session, request, free_text.continuation(request.argument))


def instruct(session: Session, request: Request) -> Outcome:
    """Follow an instruction."""
    return _free(session, request, free_text.task(request.argument))


def ask(session: Session, request: Request) -> Outcome:
    """Answer a question by itself."""
    return _free(session, request, free_text.question(request.argument))


def ask_in_chat(session: Session, request: Request) -> Outcome:
    """Answer a question as in a chat that has just begun."""
    preset = session.conversation.settings.preset
    # ChatRWKV's answers may have paragraphs here, and newlines that are made rare instead.
    is_short = ends_at_blank_line(session.model, preset) and not preset.scheduled
    moment = session.conversation.now
    return _free(
        session, request, free_text.chat_question(request.argument, moment, is_short=is_short)
    )


def further(session: Session, request: Request) -> Outcome:
    """Go on with the last free text."""
    settings = session.settings(request.options)
    return _begun(session, session.free.further(settings), "nothing_generated")


def generate_again(session: Session, request: Request) -> Outcome:
    """Another continuation in place of the last."""
    settings = session.settings(request.options)
    return _begun(session, session.free.again(settings), "nothing_generated")


def think(session: Session, request: Request) -> Outcome:
    """Let the model think before it answers."""
    amount = " ".join(request.argument.lower().split())
    if amount not in AMOUNTS:
        usage = session.language.usage("+think", "amount")
        return Notice(session.say("usage", usage=usage))
    return _thinking(session, AMOUNTS[amount])


def think_nothing(session: Session, request: Request) -> Outcome:
    """Tell the model that it has thought already."""
    return _thinking(session, Thinking.SKIPPED)


def change(session: Session, request: Request) -> Outcome:
    """Show the settings, or change one."""
    conversation = session.conversation
    if not request.argument:
        return Notice(shown(conversation.settings))
    key, _, value = request.argument.replace("=", " ", 1).partition(" ")
    if key not in KEYS or not value.strip():
        usage = session.language.usage("+set", "setting")
        return Notice(session.say("usage_set", usage=usage, keys=session.listed(KEYS)))
    conversation.settings = changed(conversation.settings, key, value.strip())
    return Notice(shown(conversation.settings))


def stats(session: Session, request: Request) -> Outcome:
    """What the session has cost."""
    return Notice(session.say("stats", **session.facts))


def _thinking(session: Session, mode: Thinking) -> Notice:
    conversation = session.conversation
    conversation.settings = replace(conversation.settings, thinking=mode)
    return Notice(session.say("thinking_" + mode.name.lower()))


def _free(session: Session, request: Request, text: free_text.Text) -> Outcome:
    settings = session.settings(request.options)
    return _begun(session, session.free.begin(text, settings, session.progress))


def _begun(session: Session, reply: Reply | None, missing: str = "") -> Outcome:
    """A reply that is counted, or the notice that there is nothing to reply to."""
    begun = session.begun(reply)
    return Notice(session.say(missing)) if begun is None else begun
