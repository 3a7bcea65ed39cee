"""Open a checkpoint from a path. The content of the file decides its format, not its extension."""

import os
from pathlib import Path

from wkv import hub
from wkv.checkpoint import gguf_header, rwkvcpp
from wkv.checkpoint.gguf import open_gguf
from wkv.checkpoint.pth import open_pth
from wkv.checkpoint.rwkvcpp import OTHER_MAGICS, open_rwkvcpp
from wkv.checkpoint.safetensors import open_safetensors
from wkv.checkpoint.sharded import SHARD, index_of_shard, open_sharded
from wkv.checkpoint.tensors import EXPECTED, Checkpoint, first_sentence
from wkv.errors import CheckpointError

INDEX = ".index.json"

GIVE_ORIGINAL = "give the .pth or .safetensors file that it was made from"

IN_FOLDERS = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "rwkv-final.pth",
)
"""File names of a folder's checkpoint, as transformers and RWKV's own trainer write them."""


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a checkpoint: a file of any format, a shard index, or a folder.

    Formats are `.pth`, `.safetensors`, `.bin`, `.gguf`, and the `.bin` of rwkv.cpp.
    Names of the catalog, such as `g1:0.1b`, stand for their downloaded files; a file or folder of
    the same name is preferred.
    The content of a file decides its format, not its extension. A missing `.pth` or
    `.safetensors` extension is added. In a folder, the Hugging Face checkpoint is opened if there
    is one, otherwise `rwkv-final.pth`, otherwise the newest `.pth`, otherwise the only `.gguf`.

    Raises:
        CheckpointError: if the path has no checkpoint, or it cannot be read.
        CatalogError: if the name is unknown, or its file is not on this machine.
    """
    try:
        path = _find(path)
        with path.open("rb") as file:
            head = file.read(512)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{str(path)[:200]} cannot be opened ({first_sentence(error)}); {EXPECTED}"
        ) from error
    if path.name.endswith(INDEX):
        return open_sharded(path)
    if SHARD.fullmatch(path.name):
        return open_sharded(index_of_shard(path))
    if head[:4] == b"PK\x03\x04":
        return open_pth(path)
    if head[:4] == gguf_header.MAGIC:
        return open_gguf(path)
    if head[:4] == rwkvcpp.MAGIC:
        return open_rwkvcpp(path)
    if len(head) > 8 and head[8:9] == b"{":
        return open_safetensors(path)
    if head[:1] == b"\x80":  # a bare pickle, the format that torch.save wrote before 2020
        return open_pth(path)
    raise CheckpointError(f"{path}: {_what_is(head)}")


def _find(name: str | Path) -> Path:
    """Return the file that a path refers to; the exact path is preferred to a missing extension."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        return _find_inside(path)
    if not str(name).endswith(("/", os.sep)):
        for candidate in (Path(f"{path}.pth"), Path(f"{path}.safetensors")):
            if candidate.is_file():
                return candidate
    cached = hub.resolve(name)
    if cached != name:
        return _find_inside(Path(cached)) if Path(cached).is_dir() else Path(cached)
    raise CheckpointError(f"{name}: {_advice_for_missing(str(name), path)}")


def _advice_for_missing(name: str, path: Path) -> str:
    """Explain that a path does not exist."""
    if path.suffix in (".pth", ".safetensors", ".bin", ".gguf") or path.parent.is_dir():
        return f"there is no such file or folder; {EXPECTED}; check the path"
    return (
        f"there is no such file or folder; {EXPECTED}, a name that `wkv models` lists, or "
        "OWNER/NAME of a repository"
    )


def _find_inside(folder: Path) -> Path:
    """Return the checkpoint file inside a folder."""
    for name in IN_FOLDERS:
        if (folder / name).is_file():
            return folder / name
    found = [file for file in folder.glob("*.pth") if file.is_file()]
    newest = max(found, key=lambda file: file.stat().st_mtime, default=None)
    if newest is not None:
        return newest
    others = sorted(file for file in folder.iterdir() if file.suffix in (".safetensors", ".gguf"))
    if len(others) == 1 and others[0].suffix == ".gguf":
        return others[0]
    twins = [
        file for ending in (".pth", ".safetensors") if (file := Path(f"{folder}{ending}")).is_file()
    ]
    advice = (
        f"give a file, such as {(others + twins)[0]}"
        if others + twins
        else ("give the path of a .pth or .safetensors file")
    )
    raise CheckpointError(f"{folder}: there is no checkpoint in this folder; {advice}")


def _what_is(head: bytes) -> str:
    """Describe a file that is not a checkpoint by its first bytes, and say what to do."""
    again = f"{EXPECTED}; download the file again"
    if not head:
        return f"the file is empty; {again}"
    if head.startswith(b"version https://git-lfs"):
        return "this is a git-lfs pointer to a file that was not downloaded; run: git lfs pull"
    if head[:4] in OTHER_MAGICS:
        return f"this is a file of an early ggml program, which wkv cannot read; {GIVE_ORIGINAL}"
    try:
        text = head.decode("utf-8", "strict" if len(head) < 500 else "ignore")
    except UnicodeDecodeError:
        text = "\0"
    if text.replace("\n", "").replace("\r", "").replace("\t", "").isprintable():
        return f"this is text (it begins with {' '.join(text.split())[:40]!r}); {again}"
    return f"the file begins with the bytes {head[:8].hex(' ')}, which is no such format; {again}"
