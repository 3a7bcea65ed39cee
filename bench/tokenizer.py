"""Speed of the World tokenizers of wkv, `rwkv` and transformers on English, Chinese and code."""

import importlib.util
import inspect
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import wkv
from wkv.inference import generate, load, model
from wkv.tokenizers import world

ROUNDS = 7
BYTES = 200_000

ENGLISH = (
    "It is a truth that whoever reads one token at a time need not remember them all. The state "
    "of a recurrent network is of a fixed size; what it has read lies in it, as a long walk lies "
    "in a walker's legs, and 1,000 pages cost no more to keep than 10 do.\n\n"
)
CHINESE = (
    "循环神经网络每次只读一个词，却能记住读过的内容。它的状态大小固定，所以无论文章多长，"
    "占用的内存都不会增加。今天天气不错，我们一起去公园散步，顺便聊聊最近读的书。\n\n"
)


def texts() -> dict[str, str]:
    """Return a text of each kind with at least BYTES bytes."""
    code = "".join(inspect.getsource(module) for module in (wkv, generate, load, model, world))
    kinds = {"English": ENGLISH, "Chinese": CHINESE, "code": code}
    return {name: text * (BYTES // len(text.encode()) + 1) for name, text in kinds.items()}


def package_tokenizer():
    """Load the package's tokenizer from its file, since importing the package reads os.environ."""
    folder = Path(importlib.util.find_spec("rwkv").submodule_search_locations[0])
    spec = importlib.util.spec_from_file_location("theirs", folder / "rwkv_tokenizer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TRIE_TOKENIZER(str(world.official_vocabulary()))


def tokenizers() -> dict[str, Callable[[str], list[int]]]:
    """Return the encode functions of all tokenizers; those of transformers if it is installed."""
    encoders = {"wkv": world.WorldTokenizer().encode, "rwkv": package_tokenizer().encode}
    if importlib.util.find_spec("transformers") is None:
        return encoders
    from transformers import AutoTokenizer

    from wkv.convert.huggingface.tokenizer_files import write_tokenizer
    from wkv.hf.tokenizer import RWKVTokenizer

    with tempfile.TemporaryDirectory() as name:
        write_tokenizer(Path(name))
        standard, ours = AutoTokenizer.from_pretrained(name), RWKVTokenizer.from_pretrained(name)
    encoders["AutoTokenizer"] = lambda text: standard(text).input_ids
    encoders["RWKVTokenizer"] = lambda text: ours(text).input_ids
    return encoders


def main() -> None:
    """Print megabytes per second, and the median of the ratios of wkv and rwkv per round."""
    encoders = tokenizers()
    print(f"World tokenizers, MB/s on {BYTES // 1000} kB, medians of {ROUNDS} rounds")
    print(f"{'':10}" + "".join(f"{name:>15}" for name in encoders) + f"{'wkv / rwkv':>13}")
    for name, text in texts().items():
        expected = encoders["rwkv"](text)
        seconds: dict[str, list[float]] = {encoder: [] for encoder in encoders}
        for _ in range(ROUNDS):
            for encoder, encode in encoders.items():
                begun = time.perf_counter()
                ids = encode(text)
                seconds[encoder].append(time.perf_counter() - begun)
                assert ids == expected, encoder
        megabytes = len(text.encode()) / 1e6
        rates = [megabytes / statistics.median(column) for column in seconds.values()]
        turns = zip(seconds["wkv"], seconds["rwkv"], strict=True)
        ratio = statistics.median(theirs / ours for ours, theirs in turns)
        print(f"{name:10}" + "".join(f"{rate:15.1f}" for rate in rates) + f"{ratio:12.1f}x")


if __name__ == "__main__":
    main()
