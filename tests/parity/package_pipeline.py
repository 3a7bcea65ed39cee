"""Ask the `rwkv` package what its PIPELINE says, draws and remembers.

Like `tests/parity/package.py` the package runs in processes of its own, one for generations 4 to 6,
one for 7 and one for 7a. Run as a module, this file is that process.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from tests.parity.package import switches

ROOT = Path(__file__).resolve().parents[2]
WORLD = "rwkv_vocab_v20230424"
LETTERS = "letters"


class Letters:
    """Ids and characters one to one; ids 0 to 11 are those that get no frequency penalty.

    Its name must not contain "Tokenizer", which the package takes for the tokenizers library.
    """

    FIRST = " \t0123456789"

    def encode(self, text):
        return [
            self.FIRST.index(char) if char in self.FIRST else ord(char) - 0x4E00 for char in text
        ]

    def decode(self, ids):
        return "".join(self.FIRST[i] if i < len(self.FIRST) else chr(0x4E00 + i) for i in ids)


@dataclass(frozen=True)
class Writing:
    """A text for `PIPELINE.generate` to continue; the answer has `token_ids` and `text`."""

    path: str
    generation: str
    context: str
    token_count: int
    tokenizer: str = LETTERS
    args: dict = field(default_factory=dict)
    kind: str = "writing"


@dataclass(frozen=True)
class Remembering:
    """Ids to read; the answer has the `logits` after all ids, the `state` and its `dtypes`.

    And the `strategy`: device, atype, wtype, stream of each layer; 7's class has none.
    """

    path: str
    generation: str
    ids: list
    strategy: str = "cpu fp32"
    kind: str = "remembering"


@dataclass(frozen=True)
class Drawing:
    """Logits for `PIPELINE.sample_logits`; the answer has the `counts` of each id."""

    logits: list
    options: dict
    draws: int
    generation: str = "7"  # which has the least to do, and does this at once with the others
    kind: str = "drawing"


@dataclass(frozen=True)
class Refining:
    """Texts for `PIPELINE.refine_context`; the answer has the `texts`."""

    texts: list
    generation: str = "4"
    kind: str = "refining"


def pipeline_answers(questions, timeout=240):
    """Give for each question a dict, see the classes of questions."""
    groups = defaultdict(list)
    for index, question in enumerate(questions):
        group = question.generation if question.generation.startswith("7") else "4 to 6"
        groups[group].append(index)
    answers = [None] * len(questions)

    def ask(group):
        asked = [asdict(questions[index]) for index in groups[group]]
        return run_process(asked, switches(group), timeout)

    with ThreadPoolExecutor(2) as pool:
        replies = dict(zip(groups, pool.map(ask, groups), strict=True))
    for group, indices in groups.items():
        for index, answer in zip(indices, replies[group], strict=True):
            answers[index] = answer
    return answers


def run_process(asked, variables, timeout):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RWKV_")}
    with tempfile.TemporaryDirectory() as folder:
        questions, answers = Path(folder, "questions.json"), Path(folder, "answers.json")
        questions.write_text(json.dumps(asked))
        done = subprocess.run(
            [sys.executable, "-m", "tests.parity.package_pipeline", str(questions), str(answers)],
            cwd=ROOT,
            env=inherited | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
        if done.returncode:
            raise RuntimeError(f"the rwkv package failed with {variables}:\n{done.stdout[-3000:]}")
        return json.loads(answers.read_text())


def open_pipeline(model=None, tokenizer=LETTERS):
    """Make the package's PIPELINE, without its World tokenizer, which takes seconds, if it can."""
    from rwkv.utils import PIPELINE

    if tokenizer != LETTERS:
        return PIPELINE(model, tokenizer)
    pipeline = PIPELINE.__new__(PIPELINE)
    pipeline.model, pipeline.tokenizer = model, Letters()
    return pipeline


def write(question):
    from rwkv.model import RWKV
    from rwkv.utils import PIPELINE_ARGS

    model = RWKV(question["path"].removesuffix(".pth"), "cpu fp32")
    pipeline = open_pipeline(model, question["tokenizer"])
    token_ids, sample_logits = [], pipeline.sample_logits

    def recorded(*args, **options):
        token_ids.append(sample_logits(*args, **options))
        return token_ids[-1]

    pipeline.sample_logits = recorded
    args = PIPELINE_ARGS(**question["args"])
    text = pipeline.generate(question["context"], question["token_count"], args)
    return {"token_ids": token_ids, "text": text}


def remember(question):
    from rwkv.model import RWKV

    model = RWKV(question["path"].removesuffix(".pth"), question["strategy"])
    logits, state = model.forward(question["ids"], None)
    return {
        "logits": logits.float().tolist(),
        "state": [tensor.float().tolist() for tensor in state],
        "dtypes": [str(tensor.dtype) for tensor in state],
        "strategy": [
            [layer.device, str(layer.atype), str(layer.wtype), layer.stream]
            for layer in getattr(model, "strategy", [])
        ],
    }


def draw(question):
    import torch

    logits, pipeline = torch.tensor(question["logits"]), open_pipeline()
    np.random.seed(0)  # what the package draws with
    counts = Counter(
        pipeline.sample_logits(logits, **question["options"]) for _ in range(question["draws"])
    )
    return {"counts": [counts[token] for token in range(len(logits))]}


def refine(question):
    pipeline = open_pipeline()
    return {"texts": [pipeline.refine_context(text) for text in question["texts"]]}


def main(asked, answered):
    import torch

    torch.set_num_threads(1)  # the models are tiny: a second thread only waits
    kinds = {"writing": write, "remembering": remember, "drawing": draw, "refining": refine}
    questions = json.loads(Path(asked).read_text())
    answers = [kinds[question["kind"]](question) for question in questions]
    Path(answered).write_text(json.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
