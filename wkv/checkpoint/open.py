"""Open a checkpoint from a path. The content of the file decides its format, not its extension."""

from pathlib import Path

from wkv.checkpoint.pth import open_pth
from wkv.checkpoint.safetensors import open_safetensors
from wkv.checkpoint.sharded import index_of_shard, open_sharded
from wkv.checkpoint.tensors import EXPECTED, Checkpoint, first_sentence
from wkv.errors import CheckpointError

INDEX = ".index.json"

IN_FOLDERS = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "rwkv-final.pth",
)
"""File names of a folder's checkpoint, as transformers and RWKV's own trainer write them."""


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a checkpoint: a `.pth`, `.safetensors` or `.bin` file, a shard index, or a folder.

    The content of a file decides its format, not its extension. A missing `.pth` or
    `.safetensors` extension is added. In a folder, the Hugging Face checkpoint is opened if there
    is one, otherwise `rwkv-final.pth`, otherwise the newest `.pth`.

    Raises:
        CheckpointError: if the path has no checkpoint, or it cannot be read.
    """
    try:
        path = _find(Path(path).expanduser())
        with path.open("rb") as file:
            head = file.read(512)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{str(path)[:200]} cannot be opened ({first_sentence(error)}); {EXPECTED}"
        ) from error
    if path.name.endswith(INDEX):
        return open_sharded(path)
    index = index_of_shard(path)
    if index is not None:
        return open_sharded(index)
    if head[:4] == b"PK\x03\x04":
        return open_pth(path)
    if len(head) > 8 and head[8:9] == b"{":
        return open_safetensors(path)
    if head[:1] == b"\x80":  # a bare pickle, the format that torch.save wrote before 2020
        return open_pth(path)
    raise CheckpointError(f"{path}: {_what_is(head)}; {EXPECTED}; fetch the file again")


def _find(path: Path) -> Path:
    """Return the file that a path refers to, or raise an error if there is none."""
    for candidate in (path, Path(f"{path}.pth"), Path(f"{path}.safetensors")):
        if candidate.is_file():
            return candidate
    if path.is_dir():
        return _find_inside(path)
    hub = len(path.parts) == 2 and not path.parent.is_dir()
    advice = "hub names are not supported, download the file" if hub else "check the path"
    raise CheckpointError(f"{path}: there is no such file; {EXPECTED}; {advice}")


def _find_inside(folder: Path) -> Path:
    """Return the checkpoint file inside a folder."""
    for name in IN_FOLDERS:
        if (folder / name).is_file():
            return folder / name
    found = [file for file in folder.glob("*.pth") if file.is_file()]
    newest = max(found, key=lambda file: file.stat().st_mtime, default=None)
    if newest is not None:
        return newest
    others = sorted(file.name for file in folder.glob("*.safetensors"))
    advice = f"give a file in it, such as {folder / others[0]}" if others else "give a file"
    raise CheckpointError(
        f"{folder}: this directory holds none of {', '.join(IN_FOLDERS)} and no .pth; {EXPECTED}; "
        f"{advice}"
    )


def _what_is(head: bytes) -> str:
    """Describe a file that is not a checkpoint by its first bytes."""
    if not head:
        return "the file is empty"
    if head.startswith(b"version https://git-lfs"):
        return "this is a git-lfs pointer to a file that was not fetched (run: git lfs pull)"
    if head[:4] in (b"fmgg", b"lmgg", b"tjgg"):
        return "this is an rwkv.cpp file"
    if head[:4] == b"GGUF":
        return "this is a GGUF file"
    try:
        text = head.decode("utf-8", "strict" if len(head) < 500 else "ignore")
    except UnicodeDecodeError:
        text = "\0"
    if text.replace("\n", "").replace("\r", "").replace("\t", "").isprintable():
        return f"this is text (it begins with {' '.join(text.split())[:40]!r})"
    return f"the file begins with the bytes {head[:8].hex(' ')}, which is neither format"
