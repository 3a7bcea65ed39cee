"""Ask the `rwkv` package where a strategy puts its layers, and let it convert checkpoints.

Run as a script, in a process of its own like tests/parity/package.py; `ask` starts it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path


def ask(plans=(), conversions=(), environment=None):
    """Put questions to the package.

    Args:
        plans: list of (path, strategy).
        conversions: list of (source, destination, strategy).
        environment: more variables, such as {"RWKV_RESCALE_LAYER": "1"}.

    Returns:
        For each plan the list of [device, activation dtype, weight dtype, streamed] of its layers.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RWKV_")}
    switches = {"RWKV_JIT_ON": "0", "RWKV_CUDA_ON": "0", "RWKV_V7_ON": "0"}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve())],
        input=json.dumps([[*map(str, p)] for p in plans] + [[*map(str, c)] for c in conversions]),
        env=inherited | switches | (environment or {}),
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode:
        raise RuntimeError(f"the rwkv package failed:\n{done.stderr[-3000:]}")
    return [answer for answer in json.loads(done.stdout.splitlines()[-1]) if answer is not None]


def answer(question):
    from rwkv.model import RWKV

    if len(question) == 3:
        source, destination, strategy = question
        try:
            RWKV(source, strategy, verbose=False, convert_and_save_and_exit=destination)
        except SystemExit:
            return None
    model = RWKV(question[0], question[1], verbose=False)
    return [
        [layer.device, str(layer.atype), str(layer.wtype), layer.stream] for layer in model.strategy
    ]


if __name__ == "__main__":
    sys.stdout.write(json.dumps([answer(question) for question in json.load(sys.stdin)]))
