"""Models on this machine that were downloaded by name: list them, and remove them."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from wkv.errors import CatalogError
from wkv.hub.catalog import Entry, entries
from wkv.hub.download import cached
from wkv.hub.names import lookup
from wkv.hub.repository import COMPLETE, home, stored


@dataclass(frozen=True)
class LocalModel:
    """A downloaded model.

    Attributes:
        name: the name that commands accept, or the path of a file from another address.
        path: its file or folder.
        n_bytes: the size of its files.
        is_complete: False if a download was interrupted.
    """

    name: str
    path: Path
    n_bytes: int
    is_complete: bool = True


def local_models() -> list[LocalModel]:
    """Return the models of the catalog in the cache, and all others that were downloaded."""
    found = []
    for entry in entries():
        path = cached(entry)
        if path is not None:
            found.append(LocalModel(entry.name, path, path.stat().st_size))
    in_catalog = {model.path for model in found}
    folder = home()
    for marker in sorted(folder.glob(f"*/*/{COMPLETE}")):
        owner, _, name = marker.parent.parent.name.partition("--")
        revision = "" if marker.parent.name == "main" else f"@{marker.parent.name}"
        path = marker.parent / marker.read_text(encoding="utf-8")
        found.append(LocalModel(f"{owner}/{name}{revision}", path, _size(marker.parent)))
        in_catalog.add(path)
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not _is_part(file) and file not in in_catalog:
            is_complete = file.suffix != ".incomplete"
            found.append(LocalModel(_name_of(file), file, file.stat().st_size, is_complete))
    return found


def remove(name: str) -> tuple[Path, int]:
    """Remove a downloaded model.

    Args:
        name: a name of `local_models`, or the address that the file came from.

    Returns:
        The removed path, and the number of bytes that are free now.

    Raises:
        CatalogError: if the name is wrong, or the model is not on this machine.
    """
    wanted = lookup(name)
    listed = {model.name: model for model in local_models()}
    if name in listed and not isinstance(wanted, Entry):
        path = listed[name].path
        # The folder of a whole repository contains a marker; other files lie in shared folders.
        marked = next((one for one in (path, path.parent) if (one / COMPLETE).is_file()), path)
        return _removed(marked)
    if wanted is None:
        raise CatalogError(
            f"{name}: this is not the name of a downloaded model; `wkv models --here` lists them, "
            "and other files are yours to delete"
        )
    here = cached(wanted) if isinstance(wanted, Entry) else stored(wanted)
    if here is None:
        raise CatalogError(f"{name} is not on this machine; `wkv models --here` lists the models")
    return _removed(here)


def _removed(path: Path) -> tuple[Path, int]:
    """Delete a file, a link and the file it means, or a folder; returns its size."""
    n_bytes = _size(path)
    if path.is_dir():
        shutil.rmtree(path)
        return path, n_bytes
    target = path.resolve()  # the cache of huggingface_hub has links to its files
    path.unlink()
    target.unlink(missing_ok=True)
    return path, n_bytes


def _is_part(file: Path) -> bool:
    """Return whether a file belongs to a folder that is listed as a whole."""
    return any((folder / COMPLETE).is_file() for folder in file.parents)


def _name_of(file: Path) -> str:
    """Return the name of a file: OWNER/NAME/FILE, or its path if it came from another address."""
    parts = file.relative_to(home()).parts
    if parts[0] == "addresses" or len(parts) < 3:
        return str(file)
    revision = "" if parts[1] == "main" else f"@{parts[1]}"
    return f"{parts[0].replace('--', '/', 1)}{revision}/{'/'.join(parts[2:])}"


def _size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
