"""The World tokenizer beside the `rwkv` package's, on English, Chinese and code, in turn."""

import importlib.util
import inspect
import statistics
import time
from pathlib import Path

import wkv
from wkv import generation, loading, model
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
    """A text of each kind, BYTES long or a little more."""
    code = "".join(inspect.getsource(module) for module in (wkv, generation, loading, model, world))
    kinds = {"English": ENGLISH, "Chinese": CHINESE, "code": code}
    return {name: text * (BYTES // len(text.encode()) + 1) for name, text in kinds.items()}


def package_tokenizer():
    """The package's tokenizer, from its file alone: importing the package reads the environment."""
    folder = Path(importlib.util.find_spec("rwkv").submodule_search_locations[0])
    spec = importlib.util.spec_from_file_location("theirs", folder / "rwkv_tokenizer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TRIE_TOKENIZER(str(world.official_vocabulary()))


def main() -> None:
    """Print megabytes per second and the median ratio of the turns."""
    ours, theirs = world.WorldTokenizer(), package_tokenizer()
    print(f"World tokenizer, {BYTES // 1000} kB of text, medians of {ROUNDS} rounds in turn")
    print(f"{'':10}{'wkv, MB/s':>12}{'rwkv, MB/s':>12}{'ratio':>9}")
    for name, text in texts().items():
        assert ours.encode(text) == theirs.encode(text)
        seconds: list[list[float]] = [[], []]
        for _ in range(ROUNDS):
            for column, tokenizer in zip(seconds, (ours, theirs), strict=True):
                begun = time.perf_counter()
                tokenizer.encode(text)
                column.append(time.perf_counter() - begun)
        megabytes = len(text.encode()) / 1e6
        rates = [megabytes / statistics.median(column) for column in seconds]
        ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
        print(f"{name:10}{rates[0]:12.1f}{rates[1]:12.1f}{ratio:8.1f}x")


if __name__ == "__main__":
    main()
