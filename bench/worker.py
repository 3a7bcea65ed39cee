"""A worker process that runs one model with wkv or the `rwkv` package.

The package reads its settings from environment variables at import, so each engine needs a separate
process. A worker is idle until it receives a task, so that workers can be measured in alternation.
"""

import os
import sys
from functools import partial
from importlib.metadata import version

from bench.serving import MOST, ROWS, Task, prompt_ids, repeat, serve

FORCED = 144
"""Tokens of each recorded text that are decoded."""

Loaded = tuple[dict[str, Task], dict[str, object]]


def main() -> None:
    """Load the model given by the arguments, then perform tasks until stdin ends."""
    engine, path, generation, form, threads = sys.argv[1:]
    os.environ["RWKV_JIT_ON"] = "1"
    os.environ["RWKV_CUDA_ON"] = "0"
    os.environ["RWKV_V7_ON"] = "1" if generation == "7" else "0"
    import torch

    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    serve(partial(LOADERS[engine], path, generation, form, int(threads)))


def load_wkv(path: str, generation: str, form: str, threads: int) -> Loaded:
    """Load a model with wkv, and return its tasks; `dense` (native only) does not skip zeros."""
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
        tasks |= forced_texts(model)
    facts = {
        "weight_bytes": model.weight_bytes,
        "engine": f"{model.engine} {model.kernels}",
        "version": wkv.__version__,
    }
    return tasks, facts


def streams(model) -> int:
    """Process ROWS requests as a server does, including sampling, decoding to text and caching."""
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
    events = []
    for row in range(ROWS):
        ids = tuple(prompt_ids()[row : row + 16])
        scheduler.submit(Request(ids=ids, sampling=greedy, max_tokens=MOST), events.append)
    while scheduler.step():
        pass
    return ROWS * MOST


def forced_texts(model) -> dict[str, Task]:
    """Return tasks that decode recorded texts, with drafts and (`plain`) without."""
    from dataclasses import replace

    from bench.speculation_texts import recorded_texts
    from wkv.bench.drafts import decode_forced
    from wkv.inference.speculation import speculation_for

    if model.config.vocab_size != 65536:
        return {}
    speculation = speculation_for(model)

    def decode(text, with_drafts: bool) -> tuple[int, dict[str, object]]:
        _, counts = decode_forced(model, text, speculation if with_drafts else None)
        facts = {"drafted": counts.drafted, "accepted": counts.accepted}
        return len(text.ids), facts | {"tokens_per_pass": counts.tokens_per_pass}

    texts = [replace(text, ids=text.ids[:FORCED]) for text in recorded_texts()]
    tasks: dict[str, Task] = {text.name: partial(decode, text, True) for text in texts}
    tasks["plain"] = partial(decode, texts[0], False)
    return tasks


def load_package(path: str, generation: str, form: str, threads: int) -> Loaded:
    """Load a model with the `rwkv` package, which has no batches, and return its tasks."""
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
