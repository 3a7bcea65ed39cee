"""Saved chats: one file each, `NAME.safetensors`, a state file with notes.

The rows of the state are the opening, the moment before the last turn, and the present, so that
`+reset` and `+` work after loading too. The notes hold the names, the settings and what was said.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from wkv.chat.conversation import Conversation, Entry, Mark, Moment
from wkv.chat.settings import Settings
from wkv.errors import InputError, StateError, WKVError
from wkv.inference.model import Model
from wkv.inference.sampling import Sampling
from wkv.models.state import State, read_header
from wkv.prompting.presets import preset_named
from wkv.prompting.template import Template, Thinking

NOTE = "chat"
SUFFIX = ".safetensors"
LONGEST_NAME = 100


@dataclass(frozen=True)
class Listing:
    """What a folder of saved chats holds.

    Attributes:
        names: chats of the model.
        others: number of chats of other models.
        unreadable: number of files that are damaged or no chats.
    """

    names: tuple[str, ...]
    others: int
    unreadable: int


class Store:
    """The folder of saved chats; it is made when the first one is saved."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path.home() / ".wkv" / "chats" if folder is None else Path(folder)
        self.folder = self.folder.expanduser()

    def path(self, name: str) -> Path:
        """The file of a name.

        Raises:
            InputError: for a name with anything but letters, digits and `-_.`.
        """
        return self.folder / f"{checked_name(name)}{SUFFIX}"

    def save(self, name: str, conversation: Conversation, model: Model) -> Path:
        """Write a conversation; one of that name is replaced.

        Raises:
            InputError, StateError: for a wrong name, or if it cannot be written.
        """
        path = self.path(name)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StateError(f"{path}: the chat could not be saved ({error})") from error
        now, before = conversation.now, conversation.before_last_turn
        marks = [now.opening, before.mark if before else now.mark, now.mark]
        states = [mark.state or model.new_state() for mark in marks]
        # Every turn begins with text to read, so the logits are not needed.
        rows = State.stack([replace(state, logits=None) for state in states])
        rows.save(path, {NOTE: _notes(conversation, [mark.ahead for mark in marks])})
        return path

    def load(self, name: str, model: Model) -> Conversation:
        """Read a conversation that was saved with this model.

        Raises:
            InputError, StateError: if there is none of that name, it is damaged, or of another
                model.
        """
        path = self.path(name)
        if not path.is_file():
            raise InputError(f"{name}: no chat of that name was saved in {self.folder}")
        return read_chat(path, model)

    def list(self, model: Model) -> Listing:
        """What is there, by the headers of the files."""
        names, others, unreadable = [], 0, 0
        paths = sorted(self.folder.glob(f"*{SUFFIX}")) if self.folder.is_dir() else []
        identity = model.identity
        for path in paths:
            try:
                header = read_header(path)
            except WKVError:
                unreadable += 1
                continue
            if NOTE not in header.metadata:
                unreadable += 1
            elif header.identity != identity:
                others += 1
            else:
                names.append(path.name.removesuffix(SUFFIX))
        return Listing(tuple(names), others, unreadable)


def checked_name(name: str) -> str:
    """The name, if a file can be called so everywhere.

    Raises:
        InputError: for an empty or long one, a path, or anything but letters, digits and `-_.`.
    """
    letters = name.replace("-", "").replace("_", "").replace(".", "")
    if not letters.isalnum() or name.startswith(".") or len(name.encode()) > LONGEST_NAME:
        raise InputError(
            f"{name[:60]!r} is no name for a chat; use letters, digits, '-', '_' and '.', "
            f"at most {LONGEST_NAME} bytes"
        )
    return name


def read_chat(path: Path, model: Model) -> Conversation:
    """Read a file that `Store.save` wrote.

    Raises:
        StateError: if it is missing, damaged, no chat, or of another model.
    """
    rows = State.load(path, model)  # compares the digest, which covers the notes
    try:
        notes = json.loads(read_header(path).metadata[NOTE])
        if rows.batch_size != 3:
            raise ValueError(f"{rows.batch_size} states instead of 3")
        return _conversation(notes, rows, model)
    except KeyError as error:
        raise StateError(f"{path}: this state is no saved chat ({error} is missing)") from error
    except (ValueError, TypeError, AttributeError, RecursionError, WKVError) as error:
        raise StateError(f"{path}: the notes of this chat are damaged ({error})") from error


def _notes(conversation: Conversation, ahead: Sequence[str]) -> str:
    """All of a conversation but its states, as JSON."""
    now, settings = conversation.now, conversation.settings
    return json.dumps(
        {
            "template": asdict(now.template),
            "ahead": ahead,
            "entries": [asdict(entry) for entry in now.entries],
            "has_last_turn": conversation.before_last_turn is not None,
            "settings": {
                "preset": settings.preset.name,
                "sampling": asdict(settings.sampling),
                "prose": settings.prose and asdict(settings.prose),
                "max_tokens": settings.max_tokens,
                "thinking": settings.thinking.label,
            },
        }
    )


def _conversation(notes: dict[str, Any], rows: State, model: Model) -> Conversation:
    """A conversation from its notes and the states of the opening, before, and now."""
    opening, before, now = (
        Mark(rows.rows([row]) if rows.tokens_seen[row] else None, str(notes["ahead"][row]))
        for row in range(3)
    )
    saved = notes["settings"]
    settings = Settings(
        preset_named(saved["preset"]),
        _sampling(saved["sampling"]),
        saved["max_tokens"],
        Thinking.of(saved["thinking"]),
        saved["prose"] and _sampling(saved["prose"]),
    )
    template = Template(**{name: str(text) for name, text in notes["template"].items()})
    entries = tuple(
        Entry(str(entry["kind"]), str(entry["text"]), str(entry["reply"]))
        for entry in notes["entries"]
    )
    conversation = Conversation(model, settings)
    conversation.now = Moment(template, opening, now, entries)
    if notes["has_last_turn"]:
        conversation.past.append(Moment(template, opening, before, entries[:-1]))
    return conversation


def _sampling(saved: dict[str, Any]) -> Sampling:
    """A sampling from its fields; a seed is the session's and is not kept."""
    return Sampling(**{**saved, "banned": tuple(saved["banned"]), "seed": None})
