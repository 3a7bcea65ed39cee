"""One engine with one model in a process of its own: told what to do on stdin, answers seconds.

The `rwkv` package fixes its behaviour by environment variables at import, so each engine gets its
own process. A worker only works when it is asked, so that workers can take turns.
"""

import json
import os
import sys
import time

PROMPT = 512
DECODED = 24


def main() -> None:
    """Load the model of the arguments, then serve `prefill` and `decode` until stdin ends."""
    engine, path, generation, dtype, threads = sys.argv[1:]
    os.environ["RWKV_JIT_ON"] = "1"
    os.environ["RWKV_CUDA_ON"] = "0"
    os.environ["RWKV_V7_ON"] = "1" if generation == "7" else "0"
    import torch

    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    tasks = {"wkv": wkv_tasks, "rwkv": package_tasks}[engine](path, generation, dtype)
    answer({"ready": True})
    for line in sys.stdin:
        begun = time.perf_counter()
        done = tasks[line.strip()]()
        answer({"seconds": (time.perf_counter() - begun) / done})


def answer(fact: dict) -> None:
    """A line of JSON to whoever asked."""
    # The package prints while it loads: our lines are marked.
    print("\n#wkv-bench " + json.dumps(fact), flush=True)


def wkv_tasks(path: str, generation: str, dtype: str) -> dict:
    """Name to function; a function returns the number of tokens it did."""
    import wkv

    model = wkv.load(path, f"cpu {dtype}")
    prompt = [1 + token % 200 for token in range(PROMPT)]
    state = model.forward(prompt[:16])[1]

    def prefill() -> int:
        model.forward(prompt)
        return PROMPT

    def decode() -> int:
        after = state
        for token in range(DECODED):
            _, after = model.forward([token + 1], after)
        return DECODED

    return {"prefill": prefill, "decode": decode}


def package_tasks(path: str, generation: str, dtype: str) -> dict:
    """As `wkv_tasks`, with the package."""
    from rwkv.model import RWKV

    name = path.removesuffix(".pth") if generation == "7" else path
    model = RWKV(model=name, strategy=f"cpu {dtype}")
    prompt = [1 + token % 200 for token in range(PROMPT)]

    def prefill() -> int:
        model.forward(prompt, None)
        return PROMPT

    def decode() -> int:
        state = None
        for token in range(DECODED):
            _, state = model.forward([token + 1], state)
        return DECODED

    return {"prefill": prefill, "decode": decode}


if __name__ == "__main__":
    main()
