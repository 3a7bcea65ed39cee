"""Checks of the machine for `wkv doctor` and `wkv bench`: processor, memory, GPU and compiler.

Functions that need PyTorch say so. No function here loads a model.
"""

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

COMPILERS = ("g++", "clang++", "c++")
"""The compilers that `wkv train` looks for; listed again here because wkv.train needs PyTorch."""

UNITS = {
    "AVX2": ("avx2",),
    "AVX-512": ("avx512f",),
    "VNNI": ("avx512_vnni", "avx_vnni"),
    "AVX512-BF16": ("avx512_bf16",),
    "AMX": ("amx_tile",),
    "NEON": ("asimd", "neon"),
    "SVE": ("sve",),
    "I8MM": ("i8mm",),
    "BF16": ("bf16",),
}
"""Instruction sets that affect the speed of a model, with their names in /proc/cpuinfo."""


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        topic: what was checked.
        found: the result of the check.
        advice: what to do if something is missing; empty if nothing is.
    """

    topic: str
    found: str
    advice: str = ""


def processor() -> Finding:
    """Report the name of the processor and its instruction sets."""
    facts = _cpuinfo()
    name = facts.get("model name") or facts.get("Model") or platform.processor() or "unknown"
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    units = [unit for unit, names in UNITS.items() if flags & set(names)]
    if not flags:
        units = [_torch_instruction_set()]
    instruction_sets = ", ".join(units) or "no known instruction sets"
    return Finding("processor", f"{name} ({platform.machine()}): {instruction_sets}")


def threads() -> Finding:
    """Report the number of threads that PyTorch uses and of cores. Needs PyTorch."""
    import torch

    return Finding("threads", f"{torch.get_num_threads()} in PyTorch, {os.cpu_count()} cores")


def memory() -> Finding:
    """Report the total and free memory, and the largest G1 model that fits."""
    from wkv.hub import recommended

    total, free = memory_bytes()
    if total is None:
        return Finding("memory", "unknown; the operating system does not report it")
    size = f"{total / 2**30:.1f} GiB"
    if free is not None:
        size += f", {free / 2**30:.1f} GiB of it free"
    best = recommended(free or total)
    if best is None:
        return Finding(
            "memory", size, "close other programs; no model of the catalog fits into this memory"
        )
    return Finding("memory", f"{size}; enough for {best.name} in bf16")


def memory_bytes() -> tuple[int | None, int | None]:
    """Return the total and the free bytes of memory, or None where the system reports neither."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None, None
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return total, 1024 * int(line.split()[1])
    return total, None


def gpus() -> list[Finding]:
    """Report the GPUs that PyTorch can use, or why there are none. Needs PyTorch."""
    import torch

    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return [
            Finding(
                f"cuda:{i}",
                f"{card.name}, compute capability {card.major}.{card.minor}, "
                f"{card.total_memory / 2**30:.1f} GiB; a model whose layers are all on it runs on "
                "the engine cuda, with decode steps as CUDA graphs",
            )
            for i, card in enumerate(cards)
        ] + [_kernels()]
    if torch.backends.mps.is_available():
        return [Finding("gpu", "mps (Apple)")]
    built = torch.version.cuda or torch.version.hip
    card = shutil.which("nvidia-smi") or Path("/dev/nvidia0").exists()
    if card and not built:
        advice = "install a PyTorch with CUDA: https://pytorch.org/get-started/locally"
        return [Finding("gpu", "NVIDIA driver found, but this PyTorch supports CPUs only", advice)]
    if card:
        advice = "run nvidia-smi; the driver may be older than this PyTorch requires"
        found = f"NVIDIA driver found, but PyTorch (CUDA {built}) cannot use a GPU"
        return [Finding("gpu", found, advice)]
    return [Finding("gpu", "none; models run on the CPU")]


def _kernels() -> Finding:
    """Report whether Triton's kernels can run; the first time, this compiles one."""
    import torch

    from wkv.gpu.requirements import kernel_error

    error = kernel_error(torch.device("cuda"))
    if error is None:
        return Finding("gpu kernels", "Triton kernels run; RWKV-7 needs 8 launches per layer")
    found = f"{error.reason}; models run on PyTorch's modules, which launch 5 times as many kernels"
    return Finding("gpu kernels", found, error.cure)


def automatic() -> Finding:
    """Report what the strategy `auto` selects for the smallest G1 model. Needs PyTorch."""
    import torch

    from wkv.hub import find
    from wkv.models.strategy import choose_strategy
    from wkv.native.library import missing_reason

    entry = find("g1:0.1b")
    picked = choose_strategy(
        "auto",
        n_layer=entry.n_layer,
        file_dtypes={torch.bfloat16},
        n_params=entry.n_params,
        native=missing_reason() is None,
    )
    return Finding("auto", f"selects {picked} for {entry.name} ({picked.reason})")


def engine() -> Finding:
    """Report whether the native engine is available, and which kernels this CPU supports."""
    from wkv.native.library import kernels, missing_reason

    why = missing_reason()
    if why is None:
        first, *others = kernels()
        return Finding(
            "engine", f"native, with the {first} kernels (also supported: {', '.join(others)})"
        )
    return Finding(
        "engine",
        f"PyTorch; the native engine, which is faster on CPUs, is missing ({why})",
        "install a wheel for this machine, or install a C++ compiler and reinstall wkv",
    )


def compiler() -> Finding:
    """Report the C++ compiler, which training and installation from source use."""
    found = next(filter(None, map(shutil.which, COMPILERS)), None)
    if found:
        return Finding("compiler", found)
    return Finding(
        "compiler",
        "none; everything works, but wkv train is slower",
        f"install one of {', '.join(COMPILERS)} (for example: apt install g++)",
    )


def _cpuinfo() -> dict[str, str]:
    """Return the fields of the first processor in /proc/cpuinfo; empty on other systems."""
    facts: dict[str, str] = {}
    for line in _lines("/proc/cpuinfo"):
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    return facts


def _torch_instruction_set() -> str:
    """Return PyTorch's name of the instruction set that it uses."""
    try:
        import torch
    except Exception:  # the report has a separate line for a broken PyTorch
        return "unknown"
    return str(torch.backends.cpu.get_cpu_capability())


def _lines(path: str) -> list[str]:
    """Return the lines of a system file, or an empty list if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
