"""What loading costs in memory: shown on a file of the 0.4B size, 900 MB of random numbers."""

import subprocess
import sys

import pytest
import torch

from tests.checkpoints import random_checkpoint
from wkv.native import library

LIMIT = 1.2
MAPPED = 0.4
"""The native engine turns ffn.value, a third of the blocks; all else stays mapped."""

MEASURE = """
import sys, torch, wkv
torch.set_num_threads(1)
def anonymous():
    for line in open('/proc/self/status'):
        if line.startswith('RssAnon'):
            return 1024 * int(line.split()[1])
wkv.load(strategy='cpu fp32').forward([1])   # what torch itself takes when it is first used
before = anonymous()
model = wkv.load(sys.argv[1], sys.argv[2], engine=sys.argv[3])
print((anonymous() - before) / model.weight_bytes)
"""


@pytest.fixture(scope="module")
def big_file(tmp_path_factory):
    """Give a bf16 RWKV-7 of the 0.4B size."""
    path = tmp_path_factory.mktemp("big") / "big.pth"
    size = {"n_layer": 24, "n_embd": 1024, "head_size": 64, "vocab_size": 65536}
    tensors = random_checkpoint("7", **size)
    torch.save({name: tensors.pop(name).bfloat16() for name in list(tensors)}, path)
    yield path
    path.unlink()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("engine", "strategy", "limit"),
    [
        ("torch", "cpu bf16", LIMIT),
        ("torch", "cpu fp32", LIMIT),
        ("native", "cpu bf16", MAPPED),
    ],
)
def test_anonymous_memory_grows_by_less_than_the_limit(big_file, engine, strategy, limit):
    if engine == "native" and library.missing_reason() is not None:
        pytest.skip(library.missing_reason())
    assert big_file.stat().st_size > 880e6
    command = [sys.executable, "-c", MEASURE, str(big_file), strategy, engine]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert float(done.stdout) < limit


def test_loading_does_not_import_the_compiler():
    # it takes longer than all the rest; PyTorch imports it to fill a table with random values
    code = "import sys, wkv; wkv.load(); assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
