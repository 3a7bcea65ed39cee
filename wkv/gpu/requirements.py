"""The requirements of the Triton kernels: Triton, a C compiler and Python's headers.

Triton compiles a kernel for the GPU by itself. At its first use it also compiles a small C module,
which launches kernels. Without these, the GPU engine runs PyTorch's modules.
"""

import shutil
import sys
import sysconfig
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from wkv.errors import first_line

COMPILERS = ("cc", "gcc", "clang")


@dataclass(frozen=True)
class Missing:
    """Something that the kernels need and that this machine lacks.

    Attributes:
        reason: a clause such as "Triton is not installed".
        cure: the command that installs it, or advice.
    """

    reason: str
    cure: str

    def __str__(self) -> str:
        """Return the reason and the cure in one line."""
        return f"{self.reason}; {self.cure}"


def missing(platform: str = sys.platform) -> Missing | None:
    """Return the first thing that is missing on this machine, or None; no GPU is needed."""
    if platform == "win32":
        if find_spec("triton") is None:  # triton-windows brings its own compiler
            return Missing("Triton is not installed", "pip install triton-windows")
        return None
    if platform != "linux":
        return Missing(f"Triton does not support {platform}", "use Linux or Windows")
    if find_spec("triton") is None:
        return Missing("Triton is not installed", "pip install triton")
    if not any(map(shutil.which, COMPILERS)):
        return Missing("Triton finds no C compiler", "sudo apt install gcc")
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return Missing(
            f"Triton finds no Python headers ({header})", f"sudo apt install python{version}-dev"
        )
    return None


def kernel_error(device: torch.device) -> Missing | None:
    """Compile and run a small kernel on a GPU; return the reason if that fails.

    Compilation takes seconds at the first use on a machine; later, Triton finds the kernel in its
    cache on disk.
    """
    known = missing()
    if known is not None:
        return known
    try:
        result = _one_kernel(device)
    except Exception as error:  # Triton, its assembler, the C compiler and the driver raise others
        return Missing(
            f"a Triton kernel failed ({first_line(error)})", "try another version of Triton"
        )
    if not bool((result == 1).all()):
        return Missing("a Triton kernel returned wrong numbers", "try another version of Triton")
    return None


def _one_kernel(device: torch.device) -> Tensor:
    """Return relu(1)^2 for some numbers, computed by a kernel."""
    launch = import_module("wkv.gpu.launch")
    hidden: Tensor = launch.squared_relu(torch.ones(2, 64, device=device), torch.float32)[0]
    return hidden
