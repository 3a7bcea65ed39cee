"""Random models of official sizes, written once as .pth files in bf16 and GGUF files."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.checkpoints import Draw, random_checkpoint

GGUF = {"fp16": "F16", "int8": "Q8_0", "int4": "Q4_0"}
"""Formats of wkv, and the formats of llama.cpp with about the same number of bits."""

VOCABULARY, HEAD = 65536, 64


@dataclass(frozen=True)
class Size:
    """A size of official models.

    Attributes:
        name: name of the size, such as "0.1B".
        n_layer, n_embd: number of layers and channels.
        ranks: ranks of w, a, v and g in RWKV-7. (RWKV-6 has 32 and 64 at all of these sizes.)
    """

    name: str
    n_layer: int
    n_embd: int
    ranks: tuple[int, int, int, int]

    def weights(self, generation: str) -> float:
        """Return the approximate number of weights: all layers, the embedding and the head."""
        squares = {"4": 13, "5.2": 13, "6": 13, "7": 12.5}[generation]
        return self.n_layer * squares * self.n_embd**2 + 2 * VOCABULARY * self.n_embd


SIZES = {
    size.name: size
    for size in (
        Size("0.1B", 12, 768, (64, 64, 32, 128)),
        Size("0.4B", 24, 1024, (64, 64, 32, 128)),
        Size("1.5B", 24, 2048, (96, 96, 64, 256)),
    )
}


class Files:
    """A folder of model files; existing files are not written again."""

    def __init__(self, folder: Path, llama_python: str | None) -> None:
        """Create the folder.

        Args:
            folder: the folder.
            llama_python: a Python interpreter with llama_cpp, which is needed for Q4_0 files.
        """
        self._folder = folder
        self._llama_python = llama_python
        folder.mkdir(parents=True, exist_ok=True)

    def pth(self, size: Size, generation: str, zeros: float | None = None) -> Path:
        """Return the path of a random model in bf16.

        With `zeros`, about this share of the activations after the squared ReLU is zero. In any
        random model half of them are, so 2 zeros - 1 of the rows of ffn.key are set to zero.
        """
        suffix = "" if zeros is None else f"-zeros{zeros:g}"
        path = self._folder / f"rwkv{generation}-{size.name}{suffix}.pth"
        if not path.exists():
            tensors = _tensors(size, generation)
            if zeros is not None:
                _mask(tensors, 2 * zeros - 1)
            for name in tensors:  # one by one, so that only one tensor exists in both dtypes
                tensors[name] = tensors[name].bfloat16()
            unfinished = path.with_suffix(".part")
            torch.save(tensors, unfinished)
            unfinished.replace(path)
        return path

    def gguf(self, size: Size, generation: str, form: str) -> Path:
        """Return the path of the same model for llama.cpp; `form` is a key of GGUF."""
        from wkv.convert.gguf.export import write_gguf

        path = self._folder / f"rwkv{generation}-{size.name}.{GGUF[form]}.gguf"
        if path.exists():
            return path
        unfinished = path.with_name(f"part-{path.name}")
        if form == "int4":
            source = self.gguf(size, generation, "fp16")
            command = [str(self._llama_python), "-m", "bench.llama", "quantize"]
            command += [str(source), str(unfinished)]
            subprocess.run(
                command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        else:
            dtype = {"fp16": "fp16", "int8": "q8_0"}[form]
            write_gguf(self.pth(size, generation), unfinished, dtype=dtype, overwrite=True)
        unfinished.replace(path)
        return path


def _tensors(size: Size, generation: str) -> dict[str, torch.Tensor]:
    """Return a random checkpoint with the official ranks, unlike the checkpoints of the tests."""
    tensors = random_checkpoint(
        generation,
        n_layer=size.n_layer,
        n_embd=size.n_embd,
        head_size=HEAD,
        vocab_size=VOCABULARY,
    )
    if generation == "7":
        draw = Draw(1)
        for layer in range(size.n_layer):
            for letter, rank in zip("wavg", size.ranks, strict=True):
                name, gain = f"blocks.{layer}.att.{letter}", 2.0 if letter == "g" else 1.0
                tensors[f"{name}1"] = draw.factor(size.n_embd, rank)
                tensors[f"{name}2"] = draw.factor(rank, size.n_embd, gain)
    return tensors


def _mask(tensors: dict[str, torch.Tensor], share: float) -> None:
    """Set a random share of the rows of each ffn.key to zero."""
    generator = torch.Generator().manual_seed(2)
    for name, tensor in tensors.items():
        if name.endswith("ffn.key.weight"):
            tensor[torch.rand(len(tensor), generator=generator) < share] = 0
