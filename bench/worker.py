"""wkv or the `rwkv` package, with one model in a process of its own.

The package fixes its behaviour by environment variables at import, so each engine gets its own
process. A worker only works when it is asked, so that workers can take turns.
"""

import os
import sys
from functools import partial
from importlib.metadata import version

from bench.serving import MOST, ROWS, Task, prompt_ids, repeat, serve

Loaded = tuple[dict[str, Task], dict[str, object]]


def main() -> None:
    """Load the model of the arguments, then serve tasks until stdin ends."""
    engine, path, generation, form, threads = sys.argv[1:]
    os.environ["RWKV_JIT_ON"] = "1"
    os.environ["RWKV_CUDA_ON"] = "0"
    os.environ["RWKV_V7_ON"] = "1" if generation == "7" else "0"
    import torch

    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    serve(partial(LOADERS[engine], path, generation, form, int(threads)))


def load_wkv(path: str, generation: str, form: str, threads: int) -> Loaded:
    """Tasks of wkv; `dense` is decoding without skipping zeros, for the native engine alone."""
    import torch

    import wkv

    model = wkv.load(path, f"cpu {form}", threads=threads)
    prompt = prompt_ids()
    one, many = (model.forward([prompt[:16]] * rows)[1] for rows in (1, ROWS))

    def prefill() -> int:
        model.forward(prompt)
        return len(prompt)

    def decode(rows: int) -> int:
        state = one if rows == 1 else many

        def step(token: int) -> None:
            nonlocal state
            _, state = model.forward(torch.full((rows, 1), token), state)

        return rows * repeat(step)

    def dense() -> int:
        model.skip_zeros = False
        try:
            return decode(1)
        finally:
            model.skip_zeros = True

    tasks = {"prefill": prefill, "decode": partial(decode, 1), "batch16": partial(decode, ROWS)}
    tasks["streams16"] = partial(streams, model)
    if model.engine == "native":
        tasks["dense"] = dense
    facts = {
        "weight_bytes": model.weight_bytes,
        "engine": f"{model.engine} {model.kernels}",
        "version": wkv.__version__,
    }
    return tasks, facts


def streams(model) -> int:
    """Answer as many requests as there are rows, as a server does: drawn, made text, kept."""
    from wkv.batching import Request, Scheduler, StateCache
    from wkv.inference.sampling import Sampling

    scheduler = Scheduler(model, StateCache(2**30), slots=ROWS)
    end = model.tokenizer.end_of_text
    greedy = Sampling(
        temperature=0,
        presence_penalty=0,
        frequency_penalty=0,
        banned=() if end is None else (end,),
    )
    said = []
    for row in range(ROWS):
        ids = tuple(prompt_ids()[row : row + 16])
        scheduler.submit(Request(ids=ids, sampling=greedy, max_tokens=MOST), said.append)
    while scheduler.step():
        pass
    return ROWS * MOST


def load_package(path: str, generation: str, form: str, threads: int) -> Loaded:
    """Tasks of the `rwkv` package; it has no batches."""
    from rwkv.model import RWKV

    name = path.removesuffix(".pth") if generation == "7" else path
    model = RWKV(model=name, strategy=f"cpu {form}")
    prompt = prompt_ids()

    def prefill() -> int:
        model.forward(prompt, None)
        return len(prompt)

    _, begun = model.forward(prompt[:16], None)

    def decode() -> int:
        state = [part.clone() for part in begun]

        def step(token: int) -> None:
            nonlocal state
            _, state = model.forward([token], state)

        return repeat(step)

    weights = model.z if generation == "7" else model.w
    read = sum(tensor.nbytes for name, tensor in weights.items() if name != "emb.weight")
    facts = {"weight_bytes": read, "engine": "torch, TorchScript", "version": version("rwkv")}
    return {"prefill": prefill, "decode": decode}, facts


LOADERS = {"wkv": load_wkv, "rwkv": load_package}

if __name__ == "__main__":
    main()
