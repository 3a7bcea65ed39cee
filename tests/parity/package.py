"""Ask the `rwkv` package what it computes.

The package fixes its behaviour by environment variables when imported (RWKV_V7_ON replaces the
class, and RWKV_DE_VERSION turns that into 7a), so it runs in processes of its own, one for each set
of variables. A process start costs seconds; `package_answers` therefore takes many questions and
starts at most three: for 4 to 6, for 7 and for 7a. Run as a script, this file is that process.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

INSTALLED = importlib.util.find_spec("rwkv") is not None
THREADS = 2


@dataclass(frozen=True)
class Call:
    """One run over ids.

    Args:
        ids: token ids; at least one.
        one_by_one: feed each id in a forward call of its own, instead of all in one call.
        after: index of an earlier call of the question, to go on from its final state; None starts
            from the empty state.
    """

    ids: list
    one_by_one: bool = False
    after: int | None = None


@dataclass(frozen=True)
class Question:
    """A checkpoint file and the calls to make on it, in order.

    Args:
        path: the .pth file, with its suffix.
        generation: "4", "5.0", "5.1", "5.2", "6", "7" or "7a".
        calls: list of Call.
        strategy: the package's strategy string.
    """

    path: str
    generation: str
    calls: list = field(default_factory=list)
    strategy: str = "cpu fp32"


class Answer(NamedTuple):
    """What a call gave: logits (T, V) float32 after every id, and the package's final state."""

    logits: np.ndarray
    state: list


def package_logits(
    path, ids, *, generation, one_by_one=False, strategy="cpu fp32", environment=None, timeout=120
):
    """Run the package over ids from the empty state, in a process of its own; gives an Answer."""
    question = Question(str(path), generation, [Call(list(ids), one_by_one)], strategy)
    return package_answers([question], environment=environment, timeout=timeout)[0][0]


def package_answers(questions, *, environment=None, timeout=120):
    """Put many questions to the package.

    Args:
        questions: list of Question.
        environment: more variables for the processes, such as {"RWKV_RESCALE_LAYER": "2"}.
        timeout: seconds that each process may take.

    Returns:
        For each question the list of its Answers, one per call.

    Raises:
        RuntimeError: if the package fails; carries the end of what it printed.
        subprocess.TimeoutExpired: if a process takes too long.
    """
    groups = defaultdict(list)
    for index, question in enumerate(questions):
        group = question.generation if question.generation.startswith("7") else "4 to 6"
        groups[group].append(index)
    answers = [None] * len(questions)
    for group, indices in groups.items():
        variables = switches(group) | (environment or {})
        replies = run_process([questions[index] for index in indices], variables, timeout)
        for index, reply in zip(indices, replies, strict=True):
            answers[index] = reply
    return answers


def layers(state, generation):
    """Order the package's flat state as the oracles do, wkv as (head, value, key)."""
    if generation == "4":
        parts = [state[i : i + 5] for i in range(0, len(state), 5)]
        return [{"att_shift": a, "wkv": np.stack(wkv), "ffn_shift": f} for a, *wkv, f in parts]
    parts = [state[i : i + 3] for i in range(0, len(state), 3)]
    # 5 and 6 keep (head, key, value), 7 keeps (head, value, key)
    turn = not generation.startswith("7")
    return [
        {"att_shift": a, "wkv": wkv.swapaxes(1, 2) if turn else wkv, "ffn_shift": f}
        for a, wkv, f in parts
    ]


def switches(group):
    """Give the variables that choose the class; without JIT, which takes longer than the runs."""
    variables = {"RWKV_JIT_ON": "0", "RWKV_CUDA_ON": "0", "RWKV_V7_ON": "0", "RWKV_DE_VERSION": "0"}
    if group.startswith("7"):
        variables["RWKV_V7_ON"] = "1"
    if group == "7a":
        variables["RWKV_DE_VERSION"] = "1"
    return variables


def run_process(questions, variables, timeout):
    """Run this file with the variables set; questions go in as json, arrays come back as npz."""
    # a setting of the developer's shell must not change what the package does
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RWKV_")}
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "asked.json"), Path(folder, "answered.npz")
        asked.write_text(json.dumps([asdict(question) for question in questions], default=plain))
        done = subprocess.run(
            [sys.executable, str(Path(__file__).resolve()), str(asked), str(answered)],
            env=inherited | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
        if done.returncode:
            raise RuntimeError(f"the rwkv package failed with {variables}:\n{done.stdout[-3000:]}")
        with np.load(answered) as arrays:
            return [
                [unpack(arrays, f"{q}.{c}") for c in range(len(question.calls))]
                for q, question in enumerate(questions)
            ]


def plain(value):
    """Turn what json does not know into what it does: numpy's integers and arrays, and paths."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)


def unpack(arrays, prefix):
    length = int(arrays[f"{prefix}.state_length"])
    state = [arrays[f"{prefix}.state.{i}"] for i in range(length)]
    return Answer(arrays[f"{prefix}.logits"], state)


def answer_questions(asked, answered):
    """Do the work of the process: read the questions, ask the package, write the arrays."""
    import torch

    torch.set_num_threads(THREADS)
    from rwkv.model import RWKV

    arrays = {}
    for q, question in enumerate(json.loads(Path(asked).read_text())):
        # 7's class adds .pth to whatever it is given; the older one adds it where it is missing
        model = RWKV(question["path"].removesuffix(".pth"), question["strategy"])
        states = []
        for c, call in enumerate(question["calls"]):
            state = None if call["after"] is None else copied(states[call["after"]])
            logits, state = run_call(model, call, state)
            states.append(copied(state))
            arrays[f"{q}.{c}.logits"] = logits
            arrays[f"{q}.{c}.state_length"] = len(state)
            for i, tensor in enumerate(state):
                arrays[f"{q}.{c}.state.{i}"] = tensor.float().numpy()
    np.savez(answered, **arrays)


def run_call(model, call, state):
    """Run one call; gives logits (T, V) and the final state."""
    steps = [[token] for token in call["ids"]] if call["one_by_one"] else [call["ids"]]
    rows = []
    for step in steps:
        logits, state = model.forward(step, state, full_output=True)
        rows.append(logits.float().numpy().reshape(len(step), -1))  # one id gives (V,)
    return np.concatenate(rows), state


def copied(state):
    """Copy a state, which the package changes in place."""
    return [tensor.clone() for tensor in state]


if __name__ == "__main__":
    answer_questions(sys.argv[1], sys.argv[2])
