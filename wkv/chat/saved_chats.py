"""Saved chats: each is a state file `NAME.safetensors` with metadata.

The state has three rows: after the opening, before the last turn, and after the last turn, so that
`+reset` and `+` work after loading too. The metadata contain speakers, settings and history.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from wkv.chat.conversation import ChatEntry, Conversation, Mark, Snapshot
from wkv.chat.settings import ChatSettings
from wkv.errors import InputError, StateError, WKVError
from wkv.inference.model import Model
from wkv.inference.sampling import Sampling
from wkv.models.state import State, read_header
from wkv.prompting.presets import preset_named
from wkv.prompting.template import Template, Thinking

METADATA_KEY = "chat"
SUFFIX = ".safetensors"
MAX_NAME_BYTES = 100


@dataclass(frozen=True)
class ChatListing:
    """The content of a folder of saved chats.

    Attributes:
        names: names of the chats of this model.
        others: number of chats of other models.
        unreadable: number of files that are damaged or not chats.
    """

    names: tuple[str, ...]
    others: int
    unreadable: int


class ChatStore:
    """The folder of saved chats; it is created when the first chat is saved.

    Attributes:
        folder: the folder, by default `~/.wkv/chats`.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path.home() / ".wkv" / "chats" if folder is None else Path(folder)
        self.folder = self.folder.expanduser()

    def path(self, name: str) -> Path:
        """Return the file of a chat.

        Raises:
            InputError: if the name is not allowed; see `checked_name`.
        """
        return self.folder / f"{checked_name(name)}{SUFFIX}"

    def save(self, name: str, conversation: Conversation, model: Model) -> Path:
        """Save a conversation; an existing chat with the same name is replaced.

        Raises:
            InputError: if the name is not allowed.
            StateError: if the file cannot be written.
        """
        path = self.path(name)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StateError(f"{path}: the chat could not be saved ({error})") from error
        now, before = conversation.now, conversation.before_last_turn
        marks = [now.opening, before.mark if before else now.mark, now.mark]
        states = [mark.state or model.new_state() for mark in marks]
        # Every turn begins with a text to read, so the logits are not needed.
        rows = State.stack([replace(state, logits=None) for state in states])
        rows.save(path, {METADATA_KEY: _to_json(conversation, [mark.read_ahead for mark in marks])})
        return path

    def load(self, name: str, model: Model) -> Conversation:
        """Load a conversation that was saved with this model.

        Raises:
            InputError: if no chat has this name.
            StateError: if the file is damaged, or belongs to another model.
        """
        path = self.path(name)
        if not path.is_file():
            raise InputError(f"{name}: no chat of that name was saved in {self.folder}")
        return read_chat(path, model)

    def list(self, model: Model) -> ChatListing:
        """List the chats in the folder; reads only the headers of the files."""
        names, others, unreadable = [], 0, 0
        paths = sorted(self.folder.glob(f"*{SUFFIX}")) if self.folder.is_dir() else []
        identity = model.identity
        for path in paths:
            try:
                header = read_header(path)
            except WKVError:
                unreadable += 1
                continue
            if METADATA_KEY not in header.metadata:
                unreadable += 1
            elif header.identity != identity:
                others += 1
            else:
                names.append(path.name.removesuffix(SUFFIX))
        return ChatListing(tuple(names), others, unreadable)


def checked_name(name: str) -> str:
    """Return the name of a chat if it is a valid file name on all systems.

    Raises:
        InputError: if the name is empty, too long, begins with ".", or contains characters other
            than letters, digits and `-_.`.
    """
    letters = name.replace("-", "").replace("_", "").replace(".", "")
    if not letters.isalnum() or name.startswith(".") or len(name.encode()) > MAX_NAME_BYTES:
        raise InputError(
            f"{name[:60]!r} is not a valid name for a chat; use letters, digits, '-', '_' and '.', "
            f"at most {MAX_NAME_BYTES} bytes"
        )
    return name


def read_chat(path: Path, model: Model) -> Conversation:
    """Read a file that `ChatStore.save` wrote.

    Raises:
        StateError: if it is missing, damaged, not a chat, or belongs to another model.
    """
    rows = State.load(path, model)  # checks the digest, which covers the metadata
    try:
        saved = json.loads(read_header(path).metadata[METADATA_KEY])
        if rows.batch_size != 3:
            raise ValueError(f"{rows.batch_size} states instead of 3")
        return _from_json(saved, rows, model)
    except KeyError as error:
        raise StateError(f"{path}: the state is not a saved chat ({error} is missing)") from error
    except (ValueError, TypeError, AttributeError, RecursionError, WKVError) as error:
        raise StateError(f"{path}: the metadata of the chat are damaged ({error})") from error


def _to_json(conversation: Conversation, read_ahead: list[str]) -> str:
    """Return everything in a conversation except its states, as JSON."""
    now, settings = conversation.now, conversation.settings
    return json.dumps(
        {
            "template": _template_fields(now.template),
            "ahead": read_ahead,
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


def _template_fields(template: Template) -> dict[str, str]:
    """Return the fields of a template; files call the suffix "interface", as ChatRWKV does."""
    fields = asdict(template)
    fields["interface"] = fields.pop("name_suffix")
    return fields


def _from_json(saved: dict[str, Any], rows: State, model: Model) -> Conversation:
    """Return a conversation from its JSON and its three states."""
    opening, before, now = (
        Mark(rows.rows([row]) if rows.tokens_seen[row] else None, str(saved["ahead"][row]))
        for row in range(3)
    )
    values = saved["settings"]
    settings = ChatSettings(
        preset_named(values["preset"]),
        _sampling(values["sampling"]),
        values["max_tokens"],
        Thinking.of(values["thinking"]),
        values["prose"] and _sampling(values["prose"]),
    )
    fields = {name: str(text) for name, text in saved["template"].items()}
    template = Template(name_suffix=fields.pop("interface"), **fields)
    entries = tuple(
        ChatEntry(str(entry["kind"]), str(entry["text"]), str(entry["reply"]))
        for entry in saved["entries"]
    )
    conversation = Conversation(model, settings)
    conversation.now = Snapshot(template, opening, now, entries)
    if saved["has_last_turn"]:
        conversation.past.append(Snapshot(template, opening, before, entries[:-1]))
    return conversation


def _sampling(fields: dict[str, Any]) -> Sampling:
    """Return sampling parameters without the seed, which belongs to the session."""
    return Sampling(**{**fields, "banned": tuple(fields["banned"]), "seed": None})
