"""Write files and folders atomically: in a hidden folder first, then moved to their place."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wkv.errors import CheckpointError, InputError


def destination(wanted: str | Path) -> Path:
    """Return the absolute path of a file or directory that is to be created.

    Raises:
        InputError: if the path has no name, contains `..`, is a symbolic link, or its parent
            folder is missing.
    """
    try:
        path = Path(wanted).expanduser()
    except RuntimeError as error:
        raise InputError(f"{wanted}: the home directory is unknown ({error})") from error
    if path.name in ("", "..") or ".." in path.parts:
        raise InputError(
            f"{wanted}: a path with `..` in it, or without a name, is not accepted; give a new name"
        )
    path = path.absolute()
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}; create it first")
    if path.is_symlink():
        raise InputError(f"{path}: this is a link to somewhere else; give the path it points to")
    return path


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """Create a hidden folder next to `path` for unfinished files, and remove it at the end.

    Raises:
        CheckpointError: if the folder cannot be created.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name[:40]}.", dir=path.parent))
    except OSError as error:
        raise CheckpointError(f"{path}: it could not be written ({error})") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Convert errors that occur while `path` is written to CheckpointError.

    PyTorch and safetensors report a full disk with error types of their own.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: it could not be written ({reason})") from error
