"""States that users save under an id: files in a folder, with a subfolder for each tenant.

An id is a digest of the state and its name. No path contains anything that a user sends.
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
from wkv.serve.protocol.errors import ApiError

ID = re.compile(r"state-[0-9a-f]{32}")
SUFFIX = ".safetensors"
READ_AHEAD = "ahead"
"""Key in a file's metadata: the text that the state has read after its last message."""

NAME = "name"
"""Key in a file's metadata: the name that the user gave the state."""

NO_KEY = "all"
"""Name of the subfolder for requests without an API key."""


@dataclass(frozen=True)
class UserState:
    """A description of a saved state.

    Attributes:
        id: the id.
        name: the name that the user gave it, or "".
        tokens: number of tokens that it has read.
        n_bytes: size of its file.
        created: seconds since 1970.
    """

    id: str
    name: str
    tokens: int
    n_bytes: int
    created: int

    @property
    def body(self) -> dict[str, object]:
        """The description, as a response contains it."""
        name = {"name": self.name} if self.name else {}
        return {
            "id": self.id,
            "object": "state",
            **name,
            "tokens": self.tokens,
            "bytes": self.n_bytes,
            "created": self.created,
        }


class UserStates:
    """The folder of the states that users save, with a limit of bytes for each tenant."""

    def __init__(self, folder: Path, model: Model, limit: int) -> None:
        self._folder = folder
        self._model = model
        self._limit = limit

    def save(self, tenant: str, state: State, read_ahead: str, name: str = "") -> UserState:
        """Save a state under a name, which need not be unique.

        Raises:
            ApiError: if the tenant's states would become too large, or writing fails.
        """
        folder = self._tenant_folder(tenant)
        partial = folder / f"{uuid4().hex}.partial"
        metadata = {READ_AHEAD: read_ahead, NAME: name, "tokens": str(state.tokens_seen[0])}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            state.save(partial, metadata)
            return self._add(tenant, partial)
        except (OSError, StateError) as error:
            raise _write_error() from error
        finally:
            with suppress(OSError):
                partial.unlink()

    def upload(self, tenant: str, data: bytes, name: str = "") -> UserState:
        """Save the file of a state that was saved before, on this server or elsewhere.

        Without `name`, it keeps the name in the file.

        Raises:
            StateError: if it is damaged, not a state, or a state of another model.
        """
        folder = self._tenant_folder(tenant)
        partial = folder / f"{uuid4().hex}.partial"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(data)
            state = State.load(partial, self._model)
            if state.batch_size != 1:
                raise StateError(
                    f"the file contains {state.batch_size} states, expected one; save a single row"
                )
            metadata = read_header(partial).metadata
            name = name or metadata.get(NAME, "")
            return self.save(tenant, state, metadata.get(READ_AHEAD, SEPARATOR), name)
        except StateError as error:
            # The client does not know the server's path.
            raise StateError(str(error).replace(f"{partial}: ", "")) from error
        except OSError as error:
            raise _write_error() from error
        finally:
            with suppress(OSError):
                partial.unlink()

    def list(self, tenant: str) -> list[UserState]:
        """Return all states of a tenant, newest first."""
        paths = self._tenant_folder(tenant).glob(f"state-*{SUFFIX}")
        states = [state for path in paths if (state := _describe(path)) is not None]
        return sorted(states, key=lambda state: state.created, reverse=True)

    def describe(self, tenant: str, state_id: str) -> UserState:
        """Return the description of a state.

        Raises:
            ApiError: if the state does not exist.
        """
        state = _describe(self.path(tenant, state_id))
        if state is None:
            raise _unknown(state_id)
        return state

    def load(self, tenant: str, state_id: str) -> tuple[State, str]:
        """Return a state, and the text that it has read after its last message.

        Raises:
            ApiError: if the state does not exist, or its file is damaged.
        """
        path = self.path(tenant, state_id)
        try:
            state = State.load(path, self._model)
            return state, read_header(path).metadata.get(READ_AHEAD, SEPARATOR)
        except StateError as error:
            raise ApiError(500, f"the file of {state_id} is damaged; delete it") from error

    def data(self, tenant: str, state_id: str) -> bytes:
        """Return the bytes of a state's file.

        Raises:
            ApiError: if the state does not exist.
        """
        try:
            return self.path(tenant, state_id).read_bytes()
        except OSError as error:  # it was deleted in the meantime
            raise _unknown(state_id) from error

    def delete(self, tenant: str, state_id: str) -> None:
        """Delete a state.

        Raises:
            ApiError: if the state does not exist.
        """
        self.path(tenant, state_id).unlink(missing_ok=True)

    def path(self, tenant: str, state_id: str) -> Path:
        """Return the path of a state's file.

        Raises:
            ApiError: if the state does not exist.
        """
        path = self._tenant_folder(tenant) / f"{state_id}{SUFFIX}"
        if not ID.fullmatch(state_id) or path.is_symlink() or not path.is_file():
            raise _unknown(state_id)
        return path

    def _add(self, tenant: str, partial: Path) -> UserState:
        """Rename a complete file to the id of its content."""
        path = partial.with_name(f"state-{read_header(partial).digest[:32]}{SUFFIX}")
        state = _describe(partial)
        if state is None:
            raise StateError("the file disappeared while it was saved; try again")
        others = sum(other.n_bytes for other in self.list(tenant) if other.id != path.stem)
        if others + state.n_bytes > self._limit:
            message = f"your states take {others} of {self._limit} bytes; delete some"
            raise ApiError(413, message, code="too_many_states")
        partial.replace(path)
        return replace(state, id=path.stem)

    def _tenant_folder(self, tenant: str) -> Path:
        return self._folder / self._model.identity[:16] / (tenant or NO_KEY)


def _describe(path: Path) -> UserState | None:
    """Return the description of a file, or None if it is not the file of a state."""
    with suppress(OSError, StateError, ValueError):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode):
            metadata = read_header(path).metadata
            tokens, name = int(metadata.get("tokens", "0")), metadata.get(NAME, "")
            return UserState(path.stem, name, tokens, status.st_size, int(status.st_mtime))
    return None


def _unknown(state_id: str) -> ApiError:
    shown = f"the id {state_id}" if ID.fullmatch(state_id) else "this id"
    message = f"there is no state with {shown}; GET /v1/states lists your states"
    return ApiError(404, message, code="no_state")


def _write_error() -> ApiError:
    return ApiError(500, "the state could not be written; is the disk full?")
