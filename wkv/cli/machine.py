"""What `wkv doctor` finds out about the machine: processor, memory, GPU, compiler.

Needs PyTorch only where a function says so; nothing here loads a model.
"""

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

COMPILERS = ("g++", "clang++", "c++")
"""What `wkv train` compiles its kernel with; told without importing it, for that needs PyTorch."""

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
"""Instruction sets that matter to a model, and how Linux calls them."""


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        topic: what was looked at.
        found: what there is.
        advice: what to do where something is missing; empty where all is well.
    """

    topic: str
    found: str
    advice: str = ""


def processor() -> Finding:
    """The name of the processor and its instruction sets."""
    facts = _cpuinfo()
    name = facts.get("model name") or facts.get("Model") or platform.processor() or "unknown"
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    units = [unit for unit, names in UNITS.items() if flags & set(names)]
    if not flags:
        units = [_of_torch()]
    return Finding("processor", f"{name} ({platform.machine()}): {', '.join(units) or 'no units'}")


def threads() -> Finding:
    """Cores of the machine and threads that PyTorch uses. Needs PyTorch."""
    import torch

    return Finding("threads", f"{torch.get_num_threads()} of PyTorch, {os.cpu_count()} cores")


def memory() -> Finding:
    """Memory in all and free, and the largest model of the newest family that it holds."""
    total, free = memory_bytes()
    if total is None:
        return Finding("memory", "this system does not tell")
    told = f"{total / 2**30:.1f} GiB"
    if free is not None:
        told += f", {free / 2**30:.1f} GiB of it free"
    fitting = _largest(free or total)
    if fitting is None:
        return Finding(
            "memory", told, "close other programs: this is too little for any model of the catalog"
        )
    return Finding("memory", f"{told}; enough for {fitting} in bf16")


def memory_bytes() -> tuple[int | None, int | None]:
    """Bytes of memory in all, and free; None where the system does not tell."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None, None
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return total, 1024 * int(line.split()[1])
    return total, None


def gpus() -> list[Finding]:
    """The GPUs that PyTorch sees, or why it sees none. Needs PyTorch."""
    import torch

    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return [
            Finding(f"cuda:{i}", f"{card.name}, {card.total_memory / 2**30:.1f} GiB")
            for i, card in enumerate(cards)
        ]
    if torch.backends.mps.is_available():
        return [Finding("gpu", "mps (Apple)")]
    built = torch.version.cuda or torch.version.hip
    card = shutil.which("nvidia-smi") or Path("/dev/nvidia0").exists()
    if card and not built:
        advice = "install a PyTorch with CUDA: https://pytorch.org/get-started/locally"
        return [Finding("gpu", "there is an NVIDIA driver, this PyTorch is for CPUs only", advice)]
    if card:
        advice = "see what nvidia-smi says; the driver may be older than this PyTorch needs"
        return [Finding("gpu", f"an NVIDIA driver, but PyTorch (CUDA {built}) sees no GPU", advice)]
    return [Finding("gpu", "none; models run on the CPU")]


def automatic() -> Finding:
    """What the strategy `auto` picks for a model of the catalog. Needs PyTorch."""
    import torch

    from wkv.hub import find
    from wkv.native.library import missing
    from wkv.strategy import choose_strategy

    entry = find("g1:0.1b")
    picked = choose_strategy(
        "auto",
        n_layer=entry.n_layer,
        file_dtypes={torch.bfloat16},
        n_params=entry.n_params,
        native=missing() is None,
    )
    return Finding("auto", f"picks {picked} for {entry.name} ({picked.reason})")


def engine() -> Finding:
    """The native engine, and which of its kernels this CPU runs."""
    from wkv.native.library import kernels, missing

    why = missing()
    if why is None:
        first, *others = kernels()
        return Finding(
            "engine", f"native, with the kernels {first} (also here: {', '.join(others)})"
        )
    return Finding(
        "engine",
        f"PyTorch; the native one, which is faster on CPUs, is missing ({why})",
        "install a wheel for this machine, or a C++ compiler and then wkv again",
    )


def compiler() -> Finding:
    """A C++ compiler, which training uses, and the installation from source."""
    found = next(filter(None, map(shutil.which, COMPILERS)), None)
    if found:
        return Finding("compiler", found)
    return Finding(
        "compiler",
        "none; nothing breaks, wkv train is slower",
        f"install one of {', '.join(COMPILERS)} (such as: apt install g++)",
    )


def _largest(n_bytes: int) -> str | None:
    """The largest G1 whose weights in bf16 leave a quarter of the memory free."""
    from wkv.hub import entries

    fitting = [
        entry.name
        for entry in entries()
        if entry.family == "g1" and entry.memory_bytes(2) < 0.75 * n_bytes
    ]
    return fitting[-1] if fitting else None


def _cpuinfo() -> dict[str, str]:
    """The first processor of /proc/cpuinfo; empty where there is none."""
    facts: dict[str, str] = {}
    for line in _lines("/proc/cpuinfo"):
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    return facts


def _of_torch() -> str:
    """What PyTorch calls the instruction set it uses."""
    try:
        import torch
    except Exception:  # a broken PyTorch has a line of its own
        return "unknown"
    return str(torch.backends.cpu.get_cpu_capability())


def _lines(path: str) -> list[str]:
    """The lines of a file of the system; none where there is no such file."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
