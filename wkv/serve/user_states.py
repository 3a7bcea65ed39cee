"""States that users keep by an id: files in a folder, one for each tenant.

An id is a digest of what the state holds. Nothing that a user sends becomes a part of a path.
"""

import re
import stat
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from wkv.errors import StateError
from wkv.inference.model import Model
from wkv.models.state import State, read_header
from wkv.prompting.template import SEPARATOR
from wkv.serve.errors import ApiError

ID = re.compile(r"state-[0-9a-f]{32}")
SUFFIX = ".safetensors"
NOTE = "ahead"
"""In a file's notes: what the state has read beyond its last turn."""

OPEN_TENANT = "all"


@dataclass(frozen=True)
class KeptState:
    """What is told of a state.

    Attributes:
        id: its name.
        tokens: that it has read.
        n_bytes: of its file.
        created: seconds since 1970.
    """

    id: str
    tokens: int
    n_bytes: int
    created: int

    @property
    def body(self) -> dict[str, object]:
        """The state as an answer tells it."""
        return {
            "id": self.id,
            "object": "state",
            "tokens": self.tokens,
            "bytes": self.n_bytes,
            "created": self.created,
        }


class KeptStates:
    """The folder of states that users keep, up to a number of bytes for each tenant."""

    def __init__(self, folder: Path, model: Model, limit: int) -> None:
        self._folder = folder
        self._model = model
        self._limit = limit

    def keep(self, tenant: str, state: State, ahead: str) -> KeptState:
        """Write a state.

        Raises:
            ApiError: if the tenant's states would take too many bytes, or it cannot be written.
        """
        folder = self._of(tenant)
        partial = folder / f"{uuid4().hex}.partial"
        notes = {NOTE: ahead, "tokens": str(state.tokens_seen[0])}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            state.save(partial, notes)
            return self._take(tenant, partial)
        except (OSError, StateError) as error:
            raise ApiError(500, "the state could not be written; is the disk full?") from error
        finally:
            with suppress(OSError):
                partial.unlink()

    def upload(self, tenant: str, data: bytes) -> KeptState:
        """Keep the file of a state that was kept before, here or elsewhere.

        Raises:
            StateError: if it is damaged, no state, or of another model.
        """
        folder = self._of(tenant)
        partial = folder / f"{uuid4().hex}.partial"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(data)
            state = State.load(partial, self._model)
            if state.batch_size != 1:
                raise StateError(
                    f"the file holds {state.batch_size} states, expected one; save a single row"
                )
            notes = read_header(partial).metadata
            return self.keep(tenant, state, notes.get(NOTE, SEPARATOR))
        except StateError as error:
            # Our own path means nothing to who sent the file.
            raise StateError(str(error).replace(f"{partial}: ", "")) from error
        except OSError as error:
            raise ApiError(500, "the state could not be written; is the disk full?") from error
        finally:
            with suppress(OSError):
                partial.unlink()

    def list(self, tenant: str) -> list[KeptState]:
        """All states of a tenant, the newest first."""
        paths = self._of(tenant).glob(f"state-*{SUFFIX}")
        told = [told for path in paths if (told := self._told(path)) is not None]
        return sorted(told, key=lambda state: state.created, reverse=True)

    def about(self, tenant: str, name: str) -> KeptState:
        """What is told of one.

        Raises:
            ApiError: if there is none of that id.
        """
        told = self._told(self.path(tenant, name))
        if told is None:
            raise _unknown(name)
        return told

    def load(self, tenant: str, name: str) -> tuple[State, str]:
        """A state, and what it has read beyond its last turn.

        Raises:
            ApiError: if there is none of that id, or its file was damaged.
        """
        path = self.path(tenant, name)
        try:
            return State.load(path, self._model), read_header(path).metadata.get(NOTE, SEPARATOR)
        except StateError as error:
            raise ApiError(500, f"the file of {name} is damaged; delete it") from error

    def data(self, tenant: str, name: str) -> bytes:
        """The bytes of a state's file.

        Raises:
            ApiError: if there is none of that id.
        """
        try:
            return self.path(tenant, name).read_bytes()
        except OSError as error:  # it was deleted meanwhile
            raise _unknown(name) from error

    def delete(self, tenant: str, name: str) -> None:
        """Delete one.

        Raises:
            ApiError: if there is none of that id.
        """
        self.path(tenant, name).unlink(missing_ok=True)

    def path(self, tenant: str, name: str) -> Path:
        """The file of an id.

        Raises:
            ApiError: if there is none.
        """
        path = self._of(tenant) / f"{name}{SUFFIX}"
        if not ID.fullmatch(name) or path.is_symlink() or not path.is_file():
            raise _unknown(name)
        return path

    def _take(self, tenant: str, partial: Path) -> KeptState:
        """Give a whole file the name of what it holds."""
        path = partial.with_name(f"state-{read_header(partial).digest[:32]}{SUFFIX}")
        told = self._told(partial)
        if told is None:
            raise StateError("the file went away while it was kept")
        kept = self.list(tenant)
        taken = sum(one.n_bytes for one in kept if one.id != path.stem)
        if taken + told.n_bytes > self._limit:
            raise ApiError(
                413,
                f"your states take {taken} bytes and may take {self._limit}; delete some",
                code="too_many_states",
            )
        partial.replace(path)
        return replace(told, id=path.stem)

    def _told(self, path: Path) -> KeptState | None:
        with suppress(OSError, StateError, ValueError):
            about = path.lstat()
            if stat.S_ISREG(about.st_mode):
                tokens = int(read_header(path).metadata.get("tokens", "0"))
                return KeptState(path.stem, tokens, about.st_size, int(about.st_mtime))
        return None

    def _of(self, tenant: str) -> Path:
        return self._folder / self._model.identity[:16] / (tenant or OPEN_TENANT)


def _unknown(name: str) -> ApiError:
    shown = name if ID.fullmatch(name) else "that id"
    return ApiError(404, f"there is no state {shown}; GET /v1/states lists yours", code="no_state")
