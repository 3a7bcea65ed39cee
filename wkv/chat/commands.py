"""The commands of the chat: `answer` executes a line that the user typed.

`answer` returns a Notice to display, a ChatReply to stream (then pass it to `Session.finish`), or
Leave. Nothing is printed here. A line is a command if it begins with `+` and a letter, or if it is
`+`, `++` or `+++`. Lines such as `exit` and `/help` are understood too. Any other line, including
`+1`, is a message.
"""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass

from wcwidth import ljust

from wkv.chat import command_handlers
from wkv.chat.inline_options import InlineOptions, split_options
from wkv.chat.outcomes import CommandRequest, Leave, Notice, Outcome
from wkv.chat.session import Session

COMMAND = re.compile(r"(\+{1,3})$|(\+[^\W\d_]\S*)(?:\s+(.*))?$", re.DOTALL)

SLASH = re.compile(r"/([^\W\d_]+)(?!\S)")
"""The beginning of a command in other programs."""

_LEAVE = ("exit", "quit", "exit()", "quit()", "/exit", "/quit", "/bye", "/q", ":q", ":q!", ":quit")
SYNONYMS = (
    dict.fromkeys(_LEAVE, "+exit")
    | dict.fromkeys(("help", "/help", "/?", ":help"), "+help")
    | dict.fromkeys(("/clear", "/new", "/reset"), "+reset")
)
"""Lines that are commands in other programs, in lower case, and the command of this chat."""


@dataclass(frozen=True)
class Command:
    """A command of the chat.

    Attributes:
        name: the name that a user types, in lower case.
        run: the handler.
        argument: the kind of argument, a key of the languages' ARGUMENTS; "" for none.
        is_required: whether the argument is required.
        is_path: whether the argument is a path or a name, in which backslashes have no special
            meaning.
    """

    name: str
    run: Callable[[Session, CommandRequest], Outcome]
    argument: str = ""
    is_required: bool = False
    is_path: bool = False


def _help(session: Session, request: CommandRequest) -> Outcome:
    """Display the help of all commands, or of one."""
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
    lines = [f"  {ljust(usage, 24)} {language.help[name]}" for name, usage in usages.items()]
    return Notice("\n".join([session.say("help_head"), *lines, session.say("help_foot")]))


COMMANDS = {
    command.name: command
    for command in (
        Command("+", command_handlers.again),
        Command("+undo", command_handlers.undo),
        Command("+reset", command_handlers.reset),
        Command("+prompt", command_handlers.prompt, "path", is_required=True, is_path=True),
        Command("+system", command_handlers.system, "text", is_required=True),
        Command("+read", command_handlers.read, "path", is_required=True, is_path=True),
        Command("+save", command_handlers.save, "name", is_required=True, is_path=True),
        Command("+load", command_handlers.load, "name", is_required=True, is_path=True),
        Command("+fork", command_handlers.fork, "name", is_required=True, is_path=True),
        Command("+list", command_handlers.list_chats),
        Command("+gen", command_handlers.generate, "text", is_required=True),
        Command("+i", command_handlers.instruct, "text", is_required=True),
        Command("+qq", command_handlers.ask, "text", is_required=True),
        Command("+qa", command_handlers.ask_in_chat, "text", is_required=True),
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
    """Execute a command or start the reply to a message.

    In a text, the two characters backslash and n stand for a newline.

    Raises:
        WKVError: with a message of one sentence. The conversation is unchanged.
        KeyboardInterrupt: during prefill. The conversation is unchanged.
    """
    slash = SLASH.match(line.strip())
    if slash and f"+{slash[1].lower()}" in COMMANDS and line.strip().lower() not in SYNONYMS:
        return Notice(session.say("slash", near=f"+{slash[1].lower()}"))
    name, argument, options = parsed(SYNONYMS.get(line.strip().lower(), line))
    if not name:
        if not argument:
            return Notice(session.say("empty"))
        return command_handlers.reply(session, CommandRequest(argument, options))
    command = COMMANDS.get(name)
    if command is None:
        return _unknown(session, name)
    if command.is_required and not argument:
        return Notice(session.say("usage", usage=session.language.usage(name, command.argument)))
    if argument and not command.argument:
        return Notice(session.say("no_argument", name=name))
    return command.run(session, CommandRequest(argument, options))


def parsed(line: str) -> tuple[str, str, InlineOptions]:
    """Return the name of the command ("" for a message), the argument or message, and options."""
    name, argument = _split(line.strip())
    command = COMMANDS.get(name)
    if command is not None and command.is_path:
        return name, argument, InlineOptions(argument, {})
    options = split_options(line.replace("\\n", "\n").strip())
    name, argument = _split(options.text)
    return name, argument, options


def _split(text: str) -> tuple[str, str]:
    """Return the name and argument of a command; for a message, "" and the text."""
    match = COMMAND.match(text)
    if match is None:
        return "", text
    return (match[1] or match[2]).lower(), (match[3] or "").strip()


def _unknown(session: Session, name: str) -> Notice:
    """Return the notice about an unknown command, with similar names."""
    near = difflib.get_close_matches(name, COMMANDS, n=3, cutoff=0.6)
    if not near:
        return Notice(session.say("unknown", name=name[:40]))
    return Notice(session.say("unknown_near", name=name[:40], near=session.join(near)))
