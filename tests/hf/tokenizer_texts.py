"""Random texts, and how many of them a tokenizer reads otherwise than the `rwkv` package.

`python -m tests.hf.tokenizer_texts 100000` compares so many, with all tokenizers that we give.
"""

import random
import sys
import tempfile
import time
from pathlib import Path

from bench.tokenizer import package_tokenizer
from wkv.tokenizers.world import official_vocabulary, read_vocabulary

SENTENCES = [
    "Hello",
    "S:2",
    "Made in China",
    "今天天气不错",
    "男：听说你们公司要派你去南方工作？",
    "Pré",
    "User: hi\n\nAssistant: <think>\n</think>",
    "\n\n\n\n \t 0123456789 \r\n\r\n  x",
    "👩‍👩‍👧‍👦 naïve Ǆ \x00\x7f\u2028\u0085\ufeff\U0010ffff",
]
PLANES = [(0, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF)]
CODE = Path(__file__).read_text(encoding="utf-8")


def random_text(chance: random.Random, tokens: list[bytes]) -> str:
    """A text of one of seven kinds, up to some hundred characters."""
    length = chance.randint(1, 40)
    match chance.randrange(7):
        case 0:  # every plane of Unicode alike
            return "".join(chr(chance.randint(*chance.choice(PLANES))) for _ in range(length))
        case 1:
            return "".join(chr(chance.randint(0x4E00, 0x9FFF)) for _ in range(length))
        case 2:
            return "".join(chr(chance.randint(0x1F300, 0x1FAFF)) for _ in range(length))
        case 3:  # tokens, glued at random
            data = b"".join(chance.choices(tokens, k=length))
        case 4:  # pieces of tokens
            data = b"".join(
                token[chance.randrange(len(token)) :] for token in chance.choices(tokens, k=length)
            )
        case 5:  # code
            begin = chance.randrange(len(CODE))
            return CODE[begin : begin + 5 * length]
        case _:  # few different characters, so that tokens overlap
            return "".join(chance.choices("ai \n\r\t01=-_/a今天é<|>", k=3 * length))
    return data.decode("utf-8", "ignore" if chance.random() < 0.5 else "replace")


def random_texts(count: int, seed: int) -> list[str]:
    """Texts that are the same for the same seed."""
    chance = random.Random(seed)
    tokens = list(read_vocabulary(official_vocabulary()).values())
    return [random_text(chance, tokens) for _ in range(count)]


def mismatches(tokenizer, texts: list[str], expected: list[list[int]]) -> list[str]:
    """Texts whose ids are not the expected ones, or that do not come back from them."""
    ids = tokenizer(texts).input_ids
    read = tokenizer.batch_decode(ids)
    triples = zip(texts, ids, expected, read, strict=True)
    return [text for text, got, want, back in triples if got != want or back != text]


def main(count: int) -> None:
    """Print how many texts were compared and how many differ."""
    from transformers import AutoTokenizer

    from wkv.convert.huggingface.tokenizer_files import write_tokenizer
    from wkv.hf.tokenizer import RWKVTokenizer

    package = package_tokenizer()
    with tempfile.TemporaryDirectory() as name:
        write_tokenizer(Path(name))
        tokenizers = {
            "AutoTokenizer": AutoTokenizer.from_pretrained(name),
            "RWKVTokenizer": RWKVTokenizer.from_pretrained(name),
        }
    texts = random_texts(count, seed=time.time_ns())
    expected = [package.encode(text) for text in texts]
    size = sum(len(text.encode()) for text in texts) / 1e6
    for name, tokenizer in tokenizers.items():
        begun = time.perf_counter()
        differ = mismatches(tokenizer, texts, expected)
        seconds = time.perf_counter() - begun
        told = f"{name}: {count} texts, {size:.1f} MB, {len(differ)} differ, {seconds:.0f} s"
        sys.stdout.write("\n".join([told, *map(repr, differ[:5])]) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
