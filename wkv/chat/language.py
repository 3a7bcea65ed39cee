"""Languages of the chat's help and notices: English, Chinese and Japanese.

A language is a module of `wkv.chat.languages` with TEXTS (notices with `{fields}`), ARGUMENTS
(placeholders for the arguments of commands), HELP (one line for each command), DETAILS (more help
for some commands), ERRORS (translations of error messages) and OPENINGS (default openings of a
conversation).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module

from wkv.chat.prompt_files import OpeningPrompt, prepared
from wkv.errors import InputError
from wkv.prompting.template import Template

LANGUAGES = {"en": "English", "zh": "Chinese", "ja": "Japanese"}


@dataclass(frozen=True)
class Language:
    """The texts of the chat in one language.

    Attributes:
        code: "en", "zh" or "ja".
        texts: notices by key.
        arguments: placeholders for the arguments of commands.
        help: one line of help for each command, by its name.
        details: more help for some commands.
        errors: patterns of error messages in English, and their translations.
        openings: pairs of a message and a reply, for an "assistant" and for two "friends".
    """

    code: str
    texts: Mapping[str, str]
    arguments: Mapping[str, str]
    help: Mapping[str, str]
    details: Mapping[str, str]
    errors: Mapping[str, str]
    openings: Mapping[str, tuple[tuple[str, str], ...]]

    def say(self, key: str, **values: object) -> str:
        """Return a notice with its fields filled in."""
        return self.texts[key].format(**values)

    def error(self, error: Exception) -> str:
        """Return the message of an error, in English if it has no translation."""
        message = " ".join(str(error).split())
        for pattern, translation in self.errors.items():
            if match := re.fullmatch(pattern, message):
                return translation.format(*match.groups())
        return message

    def usage(self, name: str, argument: str) -> str:
        """Return a command with the placeholder of its argument."""
        placeholder = self.arguments[argument]
        return f"{name} {placeholder}" if placeholder else name

    def prompt(self, template: Template) -> OpeningPrompt:
        """Return the default opening: with an assistant, or between two friends with names."""
        kind = "assistant" if template == Template() else "friends"
        names = {"user": template.user, "bot": template.bot}
        turns = [
            template.exchange(message.format(**names), reply.format(**names))
            for message, reply in self.openings[kind]
        ]
        return OpeningPrompt(template, prepared("".join(turns)))


def language_named(name: str) -> Language:
    """Return the language with a code or an English name, in any case.

    Raises:
        InputError: if the chat does not have this language.
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
                module.ERRORS,
                module.OPENINGS,
            )
    raise InputError(f"{name!r} is not a language of the chat; expected {', '.join(LANGUAGES)}")
