"""Read texts, and write files and folders atomically.

A file is written in a hidden folder first, then moved to its place.
"""

import codecs
import io
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from wkv.errors import CheckpointError, InputError, WKVError

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""The marks at the start of a text, and the encodings that remove them."""

BINARY = {
    b"\x1f\x8b": ("compressed by gzip", "decompress it with gunzip"),
    b"\xfd7zXZ\0": ("compressed by xz", "decompress it with unxz"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "decompress it with unzstd"),
    b"BZh91AY&SY": ("compressed by bzip2", "decompress it with bunzip2"),
    b"PK\3\4": ("a zip archive or a .pth checkpoint", "give a text file"),
    b"PAR1\x15": ("a Parquet table", "export it as JSON lines"),
}
"""Files that people have instead of texts: their first bytes, what they are, and what to do."""


BLOCK = 2**16
"""The number of bytes at the start of a file in which zero bytes are searched."""


def read_text(path: Path) -> str:
    """Read a text file as `decode_text` does. All text input of wkv is read here.

    Raises:
        InputError: if the file cannot be read, or its encoding is unknown.
    """
    with _read_errors(path), path.expanduser().open("rb") as file:
        beginning = file.read(BLOCK)
        _refuse_zero_bytes(beginning, str(path))  # before a large file, or an endless one, is read
        return decode_text(beginning + file.read(), str(path))


def read_lines(path: Path, most: int) -> Iterator[str]:
    """Yield the lines of a text file, without their ends, in the encodings of `decode_text`.

    Only one line is in memory at a time, so the file may be large, or a pipe.

    Args:
        path: the file.
        most: the largest number of characters of a line.

    Raises:
        InputError: if the file cannot be read, its encoding is unknown, or a line is too long.
    """
    number = 1
    with _read_errors(path), path.expanduser().open("rb") as file:
        beginning = file.peek()
        _refuse_zero_bytes(beginning, str(path))
        encoding = _encoding(beginning, str(path))
        text = io.TextIOWrapper(file, encoding)
        try:
            while line := text.readline(most + 1):
                if len(line) > most:
                    raise InputError(
                        f"{path}, line {number} has more than {most} characters; give a text file "
                        "with shorter lines"
                    )
                yield line.removesuffix("\n")
                number += 1
        except UnicodeDecodeError as error:
            where = f"after line {number - 1}: {error.reason}"
            raise _wrong_encoding(str(path), encoding, where) from error


def decode_text(data: bytes, name: str) -> str:
    r"""Decode UTF-8, or UTF-16 and UTF-32 with a byte order mark; every line ends with `\n`.

    The byte order mark is removed.

    Args:
        data: the bytes of a whole text.
        name: the name of the text in error messages.

    Raises:
        InputError: if the text has another encoding, or is compressed or other binary data.
    """
    encoding = _encoding(data, name)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        where = f"line {line}: byte {error.start} is {data[error.start]:#04x}"
        raise _wrong_encoding(name, encoding, where) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _encoding(beginning: bytes, name: str) -> str:
    """Return the encoding of a text by its byte order mark; UTF-8 without one.

    Raises:
        InputError: if the bytes begin like one of the files in BINARY.
    """
    for start, (kind, advice) in BINARY.items():
        if beginning.startswith(start):
            raise InputError(f"{name} is {kind}, expected text; {advice}")
    marks = (mark for mark in BYTE_ORDER_MARKS if beginning.startswith(mark))
    return BYTE_ORDER_MARKS[mark] if (mark := next(marks, None)) else "utf-8"


def _refuse_zero_bytes(beginning: bytes, name: str) -> None:
    """Raise an InputError if a file has zero bytes, but no byte order mark of UTF-16 or UTF-32.

    UTF-8 decodes zero bytes, so a text in UTF-16 would be learned with one after each letter.
    """
    if _encoding(beginning, name).startswith("utf-8") and b"\0" in beginning:
        raise InputError(
            f"{name} is not text (there are zero bytes); give a text file in UTF-8, or in UTF-16 "
            "with a byte order mark"
        )


def _wrong_encoding(name: str, encoding: str, where: str) -> InputError:
    """Return the error for a text that does not have its encoding."""
    return InputError(
        f"{name} is not {encoding.removesuffix('-sig').upper()} text ({where}); convert it to "
        "UTF-8, for example with `iconv -f ENCODING -t UTF-8`"
    )


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    """Convert errors that occur while a file is read to InputError."""
    try:
        yield
    except WKVError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read ({reason}); give a text file") from error


def checked_destination(wanted: str | Path) -> Path:
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


def atomic_write(
    path: Path,
    write: Callable[[Path], object],
    *,
    private: bool = False,
    error_type: type[WKVError] = CheckpointError,
) -> None:
    """Write a file or folder so that `path` is either unchanged or complete.

    Args:
        path: the file or folder to create or, if it is a file, to replace.
        write: writes to the path that it receives, which has the same name.
        private: make the file readable by its owner only. Otherwise its mode follows the umask.
        error_type: the type of the error if writing fails, for example on a full disk.
    """
    with temporary_folder(path, error_type) as folder:
        unfinished = folder / path.name
        with write_errors(path, error_type):
            write(unfinished)
            move_into_place(unfinished, path, private=private)


def move_into_place(unfinished: Path, path: Path, *, private: bool = False) -> None:
    """Set the mode of a finished file, or of a folder and its files, and move it to its place.

    Some libraries create files that only their owner can read; here the mode follows the umask.
    """
    probe = unfinished.with_name(".mode")
    probe.touch()
    mode = 0o600 if private else probe.stat().st_mode & 0o777
    for file in unfinished.rglob("*") if unfinished.is_dir() else [unfinished]:
        if file.is_file():
            file.chmod(mode)
    unfinished.replace(path)


@contextmanager
def temporary_folder(path: Path, error_type: type[WKVError] = CheckpointError) -> Iterator[Path]:
    """Create a hidden folder next to `path` for unfinished files, and remove it at the end.

    Raises:
        CheckpointError: if the folder cannot be created (or `error_type`).
    """
    with write_errors(path, error_type):
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name[:40]}.", dir=path.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def write_errors(path: Path, error_type: type[WKVError] = CheckpointError) -> Iterator[None]:
    """Convert errors that occur while `path` is written, and name `path` instead of a hidden file.

    PyTorch and safetensors report a full disk with error types of their own.

    Raises:
        CheckpointError: for every OSError and RuntimeError (or `error_type`).
    """
    try:
        yield
    except WKVError:
        raise
    except Exception as error:
        if (
            not isinstance(error, OSError | RuntimeError)
            and type(error).__name__ != "SafetensorError"
        ):
            raise
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise error_type(f"{path}: it could not be written ({reason})") from error
