"""Where things are written: checked first, made beside it, and there whole or not at all."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wkv.errors import CheckpointError, InputError


def destination(wanted: str | Path) -> Path:
    """The path of something new, absolute.

    Raises:
        InputError: if it names no file or directory, goes through `..`, or its folder is missing.
    """
    try:
        path = Path(wanted).expanduser()
    except RuntimeError as error:
        raise InputError(f"{wanted}: the home directory is not known ({error})") from error
    if path.name in ("", "..") or ".." in path.parts:
        raise InputError(
            f"{wanted}: a name with `..` in it, or none, is not taken; give a new name"
        )
    path = path.absolute()
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}; make it first")
    if path.is_symlink():
        raise InputError(f"{path}: this is a link to somewhere else; give the place itself")
    return path


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """A hidden folder beside `path` to make it in; removed at the end with what is left in it.

    Raises:
        CheckpointError: if it cannot be made.
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
    """What goes wrong while `path` is written becomes a CheckpointError.

    PyTorch and safetensors tell of a full disk with errors of their own.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: it could not be written ({reason})") from error
