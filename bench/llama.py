"""A worker for llama.cpp that uses the C API of llama-cpp-python, without PyTorch and wkv.

python -m bench.llama PATH THREADS              runs tasks, as bench.worker does
python -m bench.llama quantize F16 Q4_0         writes a file whose matrices are all Q4_0
"""

import sys
from functools import partial
from pathlib import Path

import llama_cpp as api

from bench.serving import ROWS, Task, prompt_ids, repeat, serve

BITS = {"F16": 16, "Q8_0": 8.5, "Q4_0": 4.5}
"""Bits per weight, including scales, by the last part of a file's stem."""


def main() -> None:
    """Run a worker or quantize a file, depending on the arguments."""
    if sys.argv[1] == "quantize":
        quantize(*map(Path, sys.argv[2:]))
    else:
        path, threads = sys.argv[1:]
        serve(partial(load, Path(path), int(threads)))


def load(path: Path, threads: int) -> tuple[dict[str, Task], dict[str, object]]:
    """Load a model, and return the tasks of llama.cpp and facts about it."""
    api.llama_backend_init()
    model_params = api.llama_model_default_params()
    model_params.n_gpu_layers = 0
    model = api.llama_model_load_from_file(str(path).encode(), model_params)
    if not model:
        raise RuntimeError(f"llama.cpp cannot load {path}")
    prompt = prompt_ids()
    params = api.llama_context_default_params()
    params.n_ctx = ROWS * 2 * len(prompt)
    params.n_batch = params.n_ubatch = len(prompt)
    params.n_seq_max = ROWS
    params.n_threads = params.n_threads_batch = threads
    context = api.llama_init_from_model(model, params)
    if not context:
        raise RuntimeError(f"llama.cpp cannot create a context for {path}")
    batch = api.llama_batch_init(len(prompt), 0, 1)
    seen = [0] * ROWS

    def read(entries: list[tuple[int, int, bool]]) -> None:
        """Read ids, each with its row and whether its logits are needed."""
        batch.n_tokens = len(entries)
        for place, (token, row, wants) in enumerate(entries):
            batch.token[place] = token
            batch.pos[place] = seen[row]
            batch.n_seq_id[place] = 1
            batch.seq_id[place][0] = row
            batch.logits[place] = wants
            seen[row] += 1
        if api.llama_decode(context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        api.llama_get_logits(context)  # waits until the logits are computed

    def forget() -> None:
        api.llama_memory_clear(api.llama_get_memory(context), True)
        seen[:] = [0] * ROWS

    def prefill() -> int:
        forget()
        read([(token, 0, place == len(prompt) - 1) for place, token in enumerate(prompt)])
        return len(prompt)

    def decode(rows: int) -> int:
        forget()
        return rows * repeat(lambda token: read([(token, row, True) for row in range(rows)]))

    batch16 = partial(decode, ROWS)
    tasks = {"prefill": prefill, "decode": partial(decode, 1), "batch16": batch16}
    tasks["streams16"] = batch16  # an upper limit, without sampling and decoding to text
    bits = BITS[path.stem.rpartition(".")[2]]
    vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
    table = int(vocabulary * api.llama_model_n_embd(model) * bits / 8)
    features = api.llama_print_system_info().decode()
    facts = {
        "weight_bytes": api.llama_model_size(model) - table,
        "engine": " ".join(features.split()),
        "version": api.__version__,
    }
    return tasks, facts


def quantize(source: Path, destination: Path) -> None:
    """Write an F16 file as Q4_0, including the head and the embedding."""
    params = api.llama_model_quantize_default_params()
    params.ftype = api.LLAMA_FTYPE_MOSTLY_Q4_0
    params.pure = True
    failed = api.llama_model_quantize(str(source).encode(), str(destination).encode(), params)
    if failed:
        raise RuntimeError(f"llama.cpp cannot quantize {source}")


if __name__ == "__main__":
    main()
