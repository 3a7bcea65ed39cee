"""Compiles the Triton kernels for GPUs that this machine lacks, and prints what each needs.

    python -m tests.gpu.compile_kernels sm_90 gfx1100

Triton brings its own assembler, so no GPU is needed. Without the arguments of a launch, the
alignment of pointers and sizes must be stated here.
"""

import json
import re
import subprocess
import tempfile
from argparse import ArgumentParser
from dataclasses import asdict, dataclass, field
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from wkv.gpu.kernels import int8, norm_mix, products, recurrences, sparse_value, wkv7

TARGETS = ("sm_75", "sm_80", "sm_89", "sm_90", "sm_120", "gfx942", "gfx1100")
NVIDIA_TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"

FLOATS, HALVES, NUMBERS = "*fp32", "*fp16", "*i32"
ANY = ("eps", "rows", "T", "H")
"""Arguments that may be no multiple of 16."""

FEW_WARPS, MANY_WARPS = 4, 8


@dataclass(frozen=True)
class Variant:
    """A kernel with the types and the constants of one kind of launch.

    Attributes:
        weights: bytes of weights or states that a program reads at once. 0 if the
            kernel reads none.
        narrow: largest number of narrower loads per thread, for sizes and vectors.
        but: constants of single targets.
    """

    name: str
    kernel: object
    types: dict
    constants: dict
    warps: int = 4
    weights: int = 0
    narrow: int = 8
    but: dict = field(default_factory=dict)


def types(names, **special):
    """Return the type of each argument: float32 pointers, except for those given."""
    return {name: special.get(name, FLOATS) for name in names.split()}


ROWS = {"sequence": NUMBERS, "begin": NUMBERS, "read": NUMBERS, "write": NUMBERS}
NORM = types(
    "X delta X_new weight bias shares shift mixed sequence begin read write D slot_size "
    "layer_offset rows eps",
    **ROWS, mixed=HALVES, D="i32", slot_size="i64", layer_offset="i32", rows="i32", eps="fp32",
)  # fmt: skip
PRODUCT = types(
    "x weights y table x_plane x_row y_row rows",
    x=HALVES, weights=HALVES, table=NUMBERS, x_plane="i32", x_row="i32", y_row="i32", rows="i32",
)  # fmt: skip
WKV7 = types(
    "rkv low v_first vectors state y begin read write A rkv_row rkv_plane low_row slot_size "
    "layer_offset eps",
    **ROWS, y=HALVES, A="i32", rkv_row="i32", rkv_plane="i32", low_row="i32", slot_size="i64",
    layer_offset="i32", eps="fp32",
)  # fmt: skip
GATE = types(
    "y rkv low v_first vectors gated A rkv_row rkv_plane low_row eps",
    gated=HALVES, A="i32", rkv_row="i32", rkv_plane="i32", low_row="i32", eps="fp32",
)  # fmt: skip
VALUE = types("hidden weights parts D F rows", weights=HALVES, D="i32", F="i32", rows="i32")

INT8 = types(
    "x weights inputs outputs y table x_plane x_row y_row rows ALL_K ALL_N",
    x=HALVES, weights="*i8", table=NUMBERS, x_plane="i32", x_row="i32", y_row="i32", rows="i32",
    ALL_K="i32", ALL_N="i32",
)  # fmt: skip
INT8_VALUE = types(
    "hidden weights inputs outputs parts D F rows", weights="*i8", D="i32", F="i32", rows="i32"
)

DELTA_RULE = types("receptance log_decay key value a b state y new_state T H", T="i32", H="i32")
DECAYING_SUM = types("receptance log_decay key value bonus state y new_state T H", T="i32", H="i32")
DECAYING_MEAN = types("log_decay bonus key value state y new_state T A", T="i32", A="i32")

VARIANTS = [
    Variant("norm_mix, 1 row", norm_mix.norm_mix, NORM,
            {"PARTS": 8, "MIXES": 6, "WIDE": 4096, "BLOCK": 512}, but={"gfx1100": {"PARTS": 4}}),
    Variant("norm_mix, 64 rows", norm_mix.norm_mix, NORM,
            {"PARTS": 1, "MIXES": 6, "WIDE": 4096, "BLOCK": 4096}, warps=8),
    Variant("products, 1 row", products.products, PRODUCT,
            {"ROWS": 1, "BLOCK_N": 4, "BLOCK_K": 1024}, weights=4 * 1024 * 2),
    Variant("products, 4 rows", products.products, PRODUCT,
            {"ROWS": 4, "BLOCK_N": 4, "BLOCK_K": 1024}, weights=4 * 1024 * 2),
    Variant("dot_products", products.dot_products, PRODUCT,
            {"ROWS": 32, "BLOCK_N": 16, "BLOCK_K": 64, "AS_FLOAT32": False},
            weights=16 * 64 * 2),
    Variant("wkv7, decode", wkv7.wkv7, WKV7, {"FIRST": False, "N": 64, "BV": 64},
            weights=64 * 64 * 4, narrow=72),
    Variant("wkv7, prefill", wkv7.wkv7, {**WKV7, "y": FLOATS},
            {"FIRST": False, "N": 64, "BV": 32}, warps=2, weights=32 * 64 * 4, narrow=48),
    Variant("norm_gate", wkv7.norm_gate, GATE, {"FIRST": False, "N": 64}, warps=1),
    Variant("sparse_value, 1 row", sparse_value.sparse_value, VALUE,
            {"SKIP": True, "ROWS": 1, "TILES": 32, "BLOCK_F": 64, "BLOCK_D": 128, "LANES": 8},
            weights=64 * 128 * 2),
    Variant("sparse_value, 4 rows", sparse_value.sparse_value, VALUE,
            {"SKIP": True, "ROWS": 4, "TILES": 32, "BLOCK_F": 64, "BLOCK_D": 128, "LANES": 8},
            weights=64 * 128 * 2),
    Variant("int8_products, 1 row", int8.int8_products, INT8,
            {"ROWS": 1, "BLOCK_N": 8, "BLOCK_K": 512}, weights=8 * 512, narrow=24),
    Variant("int8_products, 4 rows", int8.int8_products, INT8,
            {"ROWS": 4, "BLOCK_N": 8, "BLOCK_K": 512}, weights=8 * 512, narrow=24),
    Variant("int8_dot_products", int8.int8_dot_products, INT8,
            {"TRANSPOSED": False, "PRECISION": "ieee", "ROWS": 32, "BLOCK_N": 16, "BLOCK_K": 64}),
    Variant("int8_sparse_value, 4 rows", int8.int8_sparse_value, INT8_VALUE,
            {"SKIP": True, "ROWS": 4, "TILES": 64, "BLOCK_F": 32, "BLOCK_D": 128, "LANES": 16},
            weights=32 * 128),
    Variant("delta_rule", recurrences.delta_rule, DELTA_RULE, {"N": 64, "BV": 32},
            weights=32 * 64 * 4),
    Variant("decaying_sum", recurrences.decaying_sum, DECAYING_SUM,
            {"PER_TOKEN": True, "N": 64, "BV": 32}, weights=32 * 64 * 4),
    Variant("decaying_mean", recurrences.decaying_mean, DECAYING_MEAN,
            {"PER_TOKEN": False, "BLOCK": 256}),
]  # fmt: skip


@dataclass(frozen=True)
class Usage:
    """What a compiled kernel needs.

    Attributes:
        registers, spilled, shared: registers per thread, bytes of spills per thread, and bytes of
            shared memory.
        wide, narrow: global loads of 16 bytes, and of fewer.
        expected: the smallest number of wide loads that reads the weights.
    """

    target: str
    kernel: str
    registers: int
    spilled: int
    shared: int
    wide: int
    narrow: int
    expected: int
    most_narrow: int


def compiled(variant, target):
    """Compile a variant for a target such as "sm_90"."""
    constants = variant.constants | variant.but.get(target, {})
    names = sorted([*variant.types, *constants], key=variant.kernel.arg_names.index)
    signature = {name: variant.types.get(name, "constexpr") for name in names}
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(names)
        if name in variant.types and name not in ANY
    }
    values = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(variant.kernel, signature=signature, constexprs=values, attrs=aligned)
    options = {"num_warps": variant.warps, "enable_fp_fusion": True}
    return triton.compile(source, target=_target(target), options=options)


def _target(name):
    if name.startswith("sm_"):
        return GPUTarget("cuda", int(name[3:]), 32)
    return GPUTarget("hip", name, 64 if name.startswith("gfx9") else 32)


def usage(variant, target):
    """Compile a variant, and read what it needs from its assembly."""
    result = compiled(variant, target)
    lanes = 64 if target.startswith("gfx9") else 32
    expected = variant.weights // (16 * lanes * variant.warps)
    read = _amd if "amdgcn" in result.asm else _nvidia
    return Usage(target, variant.name, *read(result), expected, variant.narrow)


def _nvidia(result):
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(result.asm["cubin"])
        file.flush()
        needs = _output("cuobjdump", "-res-usage", file.name)
        code = _output("nvdisasm", file.name)
    found = {name: int(n) for name, n in re.findall(r"(REG|STACK|LOCAL):(\d+)", needs)}
    loads = re.findall(r"\bLDG(?:STS)?\.E\S*", code)
    wide = sum(".128" in load for load in loads)
    spilled = found["STACK"] + found["LOCAL"]
    return found["REG"], spilled, result.metadata.shared, wide, len(loads) - wide


def _output(tool, *arguments):
    command = [NVIDIA_TOOLS / tool, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _amd(result):
    code = result.asm["amdgcn"]
    registers = int(re.search(r"\.vgpr_count:\s+(\d+)", code)[1])
    spilled = int(re.search(r"\.private_segment_fixed_size:\s+(\d+)", code)[1])
    loads = re.findall(r"\b(?:global|buffer)_load_\S+", code)
    wide = sum(load.endswith(("dwordx4", "b128")) for load in loads)
    return registers, spilled, result.metadata.shared, wide, len(loads) - wide


def main():
    parser = ArgumentParser()
    parser.add_argument("targets", nargs="*", default=TARGETS)
    parser.add_argument("--only", nargs="*", help="names of variants")
    options = parser.parse_args()
    for target in options.targets:
        for variant in VARIANTS:
            if not options.only or variant.name in options.only:
                print(json.dumps(asdict(usage(variant, target))), flush=True)


if __name__ == "__main__":
    main()
