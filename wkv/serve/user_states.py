"""States that users save under an id: files in a folder, with a subfolder for each tenant.

An id is a digest of the state and its name. No path contains anything that a user sends.
"""

import re
import stat
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from wkv.batching.owned_folder import OwnedFile, OwnedFolder
from wkv.errors import StateError
from wkv.files import write_errors
from wkv.inference.model import Model
from wkv.models.state import State, read_header
from wkv.prompting.template import SEPARATOR
from wkv.serve.protocol.errors import ApiError

ID = re.compile(r"state-[0-9a-f]{32}")
SUFFIX = ".safetensors"
FILE_NAME = re.compile(ID.pattern + re.escape(SUFFIX))
UNNAMED = f"state{SUFFIX}"
"""Name of a file whose digest is not yet known."""

READ_AHEAD = "ahead"
"""Key in a file's metadata: the text that the state has read after its last message."""

NAME = "name"
"""Key in a file's metadata: the name that the user gave the state."""

NO_KEY = "all"
"""Name of the subfolder for requests without an API key."""

TENANT = re.compile(rf"[0-9a-f]{{64}}|{NO_KEY}")


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
        """Open the folder, and remove what processes that died left in it."""
        self._folder = folder / model.identity[:16]
        self._model = model
        self._limit = limit
        self._lock = threading.Lock()
        self._folders: dict[str, OwnedFolder] = {}
        self._described: dict[str, dict[OwnedFile, UserState]] = {}
        with suppress(OSError):
            for path in list(self._folder.iterdir()):
                if TENANT.fullmatch(path.name):
                    with suppress(StateError):  # reported when it is used
                        OwnedFolder(path, FILE_NAME)

    def save(self, tenant: str, state: State, read_ahead: str, name: str = "") -> UserState:
        """Save a state under a name, which need not be unique.

        Raises:
            ApiError: if the tenant's states would become too large, or writing fails.
        """
        metadata = {READ_AHEAD: read_ahead, NAME: name, "tokens": str(state.tokens_seen[0])}
        try:
            folder = self._open(tenant)
            folder.remove_unfinished()
            with folder.unfinished(UNNAMED) as path:
                state.save(path, metadata)
                return self._keep(folder, path)
        except StateError as error:
            raise _write_error() from error

    def upload(self, tenant: str, data: bytes, name: str = "") -> UserState:
        """Save the file of a state that was saved before, on this server or elsewhere.

        Without `name`, it keeps the name in the file.

        Raises:
            StateError: if it is damaged, not a state, or a state of another model.
            ApiError: if the tenant's states would become too large, or writing fails.
        """
        with TemporaryDirectory(prefix="wkv-upload-") as folder:
            path = Path(folder) / UNNAMED
            try:
                path.write_bytes(data)
            except OSError as error:
                raise _write_error() from error
            state, metadata = self._read(path)
        if state.batch_size != 1:
            raise StateError(
                f"the file contains {state.batch_size} states, expected one; save a single row"
            )
        name = name or metadata.get(NAME, "")
        return self.save(tenant, state, metadata.get(READ_AHEAD, SEPARATOR), name)

    def list(self, tenant: str) -> list[UserState]:
        """Return all states of a tenant, newest first. Only new files are opened."""
        known, states = self._described.get(tenant, {}), {}
        for file in self._files(tenant):
            state = known.get(file) or _describe(self._tenant_folder(tenant) / file.name)
            if state is not None:
                states[file] = state
        self._described[tenant] = states
        return sorted(states.values(), key=lambda state: state.created, reverse=True)

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
            state, metadata = self._read(path)
        except StateError as error:
            self.path(tenant, state_id)  # it may have been deleted in the meantime
            raise ApiError(500, f"the file of {state_id} is damaged; delete it") from error
        return state, metadata.get(READ_AHEAD, SEPARATOR)

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
            ApiError: if the state does not exist, or its file cannot be deleted.
        """
        try:
            self.path(tenant, state_id).unlink(missing_ok=True)
        except OSError as error:
            raise ApiError(500, "the file of the state cannot be deleted") from error

    def path(self, tenant: str, state_id: str) -> Path:
        """Return the path of a state's file.

        Raises:
            ApiError: if the state does not exist.
        """
        path = self._tenant_folder(tenant) / f"{state_id}{SUFFIX}"
        if not ID.fullmatch(state_id) or path.is_symlink() or not path.is_file():
            raise _unknown(state_id)
        return path

    def _read(self, path: Path) -> tuple[State, Mapping[str, str]]:
        """Return the state in a file and its metadata.

        Raises:
            StateError: if it is not a valid state of the model; the message has no path, because
                clients do not know those of the server.
        """
        try:
            return State.load(path, self._model), read_header(path).metadata
        except StateError as error:
            raise StateError(str(error).replace(f"{path}: ", "")) from error

    def _keep(self, folder: OwnedFolder, unfinished: Path) -> UserState:
        """Move a complete file to the id of its content.

        It is described before, because another request may delete it at once.
        """
        state_id = f"state-{read_header(unfinished).digest[:32]}"
        name = f"{state_id}{SUFFIX}"
        state = _describe(unfinished)
        if state is None:
            raise StateError("the unfinished file disappeared; try again")
        with self._lock:  # two states that are saved at once must not exceed the limit together
            others = sum(file.n_bytes for file in folder.files() if file.name != name)
            if others + state.n_bytes > self._limit:
                message = f"your states take {others} of {self._limit} bytes; delete some"
                raise ApiError(413, message, code="too_many_states")
            folder.keep(unfinished, name)
        return replace(state, id=state_id)

    def _files(self, tenant: str) -> Sequence[OwnedFile]:
        if not self._tenant_folder(tenant).is_dir():
            return ()
        try:
            return self._open(tenant).files()
        except StateError as error:
            raise ApiError(500, "the folder of the states cannot be used") from error

    def _open(self, tenant: str) -> OwnedFolder:
        """Return the folder of a tenant, which is created if necessary.

        Raises:
            StateError: if it cannot be used.
        """
        path = self._tenant_folder(tenant)
        if tenant not in self._folders or not path.is_dir():
            with write_errors(path, StateError):
                for parent in (self._folder.parent, self._folder):
                    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folders[tenant] = OwnedFolder(path, FILE_NAME)
        return self._folders[tenant]

    def _tenant_folder(self, tenant: str) -> Path:
        return self._folder / (tenant or NO_KEY)


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
    return ApiError(507, "the state could not be written; is the disk full?", code="not_stored")
