"""The kernels compile for every GPU, without spills, and read weights 16 bytes at a time."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

MOST_SPILLED = 32
"""Bytes per thread."""

HEAVY = ("norm_mix, 1 row", "products, 4 rows", "wkv7, decode", "sparse_value, 1 row")
"""The variants that are compiled for every target; of one NVIDIA and one AMD target, all are."""

WHOLE = ("sm_75", "gfx1100")
HALF = ("sm_80", "sm_89", "sm_90", "sm_120", "gfx942")


def table(folder, *arguments):
    """Compile in another process, because this one may run kernels in Triton's interpreter."""
    command = [sys.executable, "-m", "tests.gpu.compile_kernels", *arguments]
    environment = os.environ | {"TRITON_CACHE_DIR": str(folder), "TRITON_INTERPRET": "0"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_kernels_compile_for_every_gpu_without_spills_or_narrow_loads(tmp_path):
    whole = table(tmp_path, *WHOLE)
    half = table(tmp_path, *HALF, "--only", *HEAVY)
    lines = [line for process in (whole, half) for line in process.communicate()[0].splitlines()]
    assert (whole.returncode, half.returncode) == (0, 0)
    usages = [json.loads(line) for line in lines]
    assert {usage["target"] for usage in usages} == {*WHOLE, *HALF}
    assert [usage for usage in usages if usage["spilled"] > MOST_SPILLED] == []
    # Fewer wide loads than the weights need means that some are read in smaller pieces.
    assert [usage for usage in usages if usage["wide"] < usage["expected"]] == []
    reads_weights = [usage for usage in usages if usage["expected"]]
    assert [usage for usage in reads_weights if usage["narrow"] > usage["most_narrow"]] == []
