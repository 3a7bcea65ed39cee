"""The languages that the chat speaks to its user: English, Chinese, Japanese.

A language is a module of `wkv.chat.languages` with TEXTS (notices with `{fields}`), ARGUMENTS (what
stands for a command's argument), HELP (a line for each command), DETAILS (more, for some) and
OPENINGS (what a conversation begins with).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module

from wkv.chat.prompt_files import Prompt, prepared
from wkv.errors import InputError
from wkv.prompting.template import Template

LANGUAGES = {"en": "English", "zh": "Chinese", "ja": "Japanese"}


@dataclass(frozen=True)
class Language:
    """What the chat says in one language.

    Attributes:
        code: "en", "zh" or "ja".
        texts: notices by key.
        arguments: words for a command's argument.
        help: a line for each command, by its name.
        details: more about some commands.
        openings: pairs of a message and a reply, for an "assistant" and between "friends".
    """

    code: str
    texts: Mapping[str, str]
    arguments: Mapping[str, str]
    help: Mapping[str, str]
    details: Mapping[str, str]
    openings: Mapping[str, tuple[tuple[str, str], ...]]

    def say(self, key: str, **values: object) -> str:
        """A notice with its fields filled in."""
        return self.texts[key].format(**values)

    def usage(self, name: str, argument: str) -> str:
        """A command with its argument."""
        told = self.arguments[argument]
        return f"{name} {told}" if told else name

    def prompt(self, template: Template) -> Prompt:
        """An opening prompt: with an assistant, or of two friends who have names of their own."""
        kind = "assistant" if template == Template() else "friends"
        names = {"user": template.user, "bot": template.bot}
        turns = [
            template.exchange(message.format(**names), reply.format(**names))
            for message, reply in self.openings[kind]
        ]
        return Prompt(template, prepared("".join(turns)))


def language_named(name: str) -> Language:
    """The language of a code or an English name, in any case.

    Raises:
        InputError: if the chat does not speak it.
    """
    for code, english in LANGUAGES.items():
        if name.lower() in (code, english.lower()):
            module = import_module(f"wkv.chat.languages.{code}")
            return Language(
                code,
                module.TEXTS,
                module.ARGUMENTS,
                module.HELP,
                module.DETAILS,
                module.OPENINGS,
            )
    raise InputError(f"{name!r} is no language of the chat; expected {', '.join(LANGUAGES)}")
