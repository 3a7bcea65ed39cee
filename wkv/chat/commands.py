"""The commands of the chat: a line that the user typed, to what comes of it.

`answer` gives a Notice to show, a Reply to stream (then `Session.finish` it), or Leave. Nothing is
printed here. A line that begins with `+` and a letter is a command; `+`, `++` and `+++` are too;
everything else, `+1` included, is a message.
"""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass

from wkv.chat import command_handlers
from wkv.chat.inline_options import Inline, split_options
from wkv.chat.outcomes import Leave, Notice, Outcome, Request
from wkv.chat.session import Session
from wkv.chat.width import padded

COMMAND = re.compile(r"(\+{1,3})$|(\+[^\W\d_]\S*)(?:\s+(.*))?$", re.DOTALL)


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        name: as it is typed, in lower case.
        run: what it does.
        argument: which argument it takes, a key of the languages' ARGUMENTS; "": none.
        is_needed: it makes no sense without.
        is_path: the argument is a path or a name, in which a backslash is a backslash.
    """

    name: str
    run: Callable[[Session, Request], Outcome]
    argument: str = ""
    is_needed: bool = False
    is_path: bool = False


def _help(session: Session, request: Request) -> Outcome:
    """All commands, or one."""
    language = session.language
    if request.argument:
        bare = request.argument.lower().lstrip("+")
        name = f"+{bare}" if bare else request.argument
        command = COMMANDS.get(name)
        if command is None:
            return _unknown(session, name)
        usage = language.usage(command.name, command.argument)
        lines = [f"{usage}\n  {language.help[command.name]}"]
        if command.name in language.details:
            lines.append(language.details[command.name])
        return Notice("\n".join(lines))
    usages = {name: language.usage(name, it.argument) for name, it in COMMANDS.items()}
    lines = [f"  {padded(usage, 24)} {language.help[name]}" for name, usage in usages.items()]
    return Notice("\n".join([session.say("help_head"), *lines, session.say("help_foot")]))


COMMANDS = {
    command.name: command
    for command in (
        Command("+", command_handlers.again),
        Command("+undo", command_handlers.undo),
        Command("+reset", command_handlers.reset),
        Command("+prompt", command_handlers.prompt, "path", is_needed=True, is_path=True),
        Command("+system", command_handlers.system, "text", is_needed=True),
        Command("+read", command_handlers.read, "path", is_needed=True, is_path=True),
        Command("+save", command_handlers.save, "name", is_needed=True, is_path=True),
        Command("+load", command_handlers.load, "name", is_needed=True, is_path=True),
        Command("+fork", command_handlers.fork, "name", is_needed=True, is_path=True),
        Command("+list", command_handlers.list_chats),
        Command("+gen", command_handlers.generate, "text", is_needed=True),
        Command("+i", command_handlers.instruct, "text", is_needed=True),
        Command("+qq", command_handlers.ask, "text", is_needed=True),
        Command("+qa", command_handlers.ask_in_chat, "text", is_needed=True),
        Command("+++", command_handlers.further),
        Command("++", command_handlers.generate_again),
        Command("+think", command_handlers.think, "amount"),
        Command("+nothink", command_handlers.think_nothing),
        Command("+set", command_handlers.change, "setting"),
        Command("+stats", command_handlers.stats),
        Command("+help", _help, "command"),
        Command("+exit", lambda session, request: Leave()),
    )
}


def answer(session: Session, line: str) -> Outcome:
    """What comes of a line; the two characters backslash and n in a text are a newline.

    Raises:
        WKVError: one sentence; the conversation is as before.
        KeyboardInterrupt: while a text was read; the conversation is as before.
    """
    name, argument, options = parsed(line)
    if not name:
        if not argument:
            return Notice(session.say("empty"))
        return command_handlers.reply(session, Request(argument, options))
    command = COMMANDS.get(name)
    if command is None:
        return _unknown(session, name)
    if command.is_needed and not argument:
        return Notice(session.say("usage", usage=session.language.usage(name, command.argument)))
    if argument and not command.argument:
        return Notice(session.say("no_argument", name=name))
    return command.run(session, Request(argument, options))


def parsed(line: str) -> tuple[str, str, Inline]:
    """A command's name, or "" for a message; the argument or message; the options."""
    name, argument = _split(line.strip())
    command = COMMANDS.get(name)
    if command is not None and command.is_path:
        return name, argument, Inline(argument, {})
    options = split_options(line.replace("\\n", "\n").strip())
    name, argument = _split(options.text)
    return name, argument, options


def _split(text: str) -> tuple[str, str]:
    """A command's name and argument; "" and the text if it is none."""
    match = COMMAND.match(text)
    if match is None:
        return "", text
    return (match[1] or match[2]).lower(), (match[3] or "").strip()


def _unknown(session: Session, name: str) -> Notice:
    """The nearest names of commands."""
    near = difflib.get_close_matches(name, COMMANDS, n=3, cutoff=0.6)
    if not near:
        return Notice(session.say("unknown", name=name[:40]))
    return Notice(session.say("unknown_near", name=name[:40], near=session.listed(near)))
