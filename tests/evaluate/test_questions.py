"""Questions of a file: what counts as an answer, and lines that are not questions."""

import json

import pytest

import wkv
from wkv.demo import QUESTIONS
from wkv.evaluate.exercises import accuracy, questions
from wkv.evaluate.questions import Question, answered, compare_answers, read_questions
from wkv.inference.generate import generate
from wkv.inference.sampling import Sampling


@pytest.mark.parametrize(
    ("prompt", "answer", "reply"),
    [
        ("User: 2 + 3?\n\nAssistant:", "5", " 5\n\n"),
        ("User: 2 + 3?\n\nAssistant:", " 5\n", " 5\n\n"),
        ("The capital of France is", "Paris", " Paris"),
        ("The capital of France is ", "Paris", "Paris"),
        ("The capital of France is:", "Paris", "Paris"),
        ("中国的首都是", "北京", "北京"),
        ("print(", "x)", "x)"),
    ],
)
def test_the_reply_that_is_expected(prompt, answer, reply):
    assert Question(prompt, answer).reply == reply


class Examinee:
    """A model behind the interface of `accuracy`."""

    def __init__(self, model):
        self.model, self.tokenizer = model, model.tokenizer

    def logits(self, ids):
        return self.model.forward(ids, all_logits=True)[0]


def test_the_built_in_questions_are_answered_as_before_and_as_greedy_decoding_does(demo):
    asked = read_questions(QUESTIONS)
    pairs = [pair for kind in questions().values() for pair in kind]
    assert [(one.prompt, one.answer) for one in asked] == pairs
    some = slice(None, None, 18)
    found = answered(demo, asked[some])
    assert sum(found) / len(found) == accuracy(Examinee(demo), pairs[some])
    assert False in found
    for question, right in zip(asked[some], found, strict=True):
        length = len(demo.tokenizer.encode(question.reply))
        greedy = Sampling(temperature=0)
        done = generate(demo, question.prompt, sampling=greedy, max_tokens=length)
        assert right == (done.text == question.reply)


def test_answers_of_two_models_are_paired(monkeypatch):
    answers = {"before": [True, True, True, False], "after": [False, False, True, True]}

    def fixed(model, asked, on_done):
        on_done(len(asked))
        return answers[model]

    monkeypatch.setattr("wkv.evaluate.questions.answered", fixed)
    seen = []
    asked = [Question("What?", "That.")] * 4
    found = compare_answers("before", "after", asked, lambda *done: seen.append(done))
    assert (found.asked, found.right, found.lost, found.gained) == (4, (0.75, 0.5), 2, 1)
    assert found.change.low < found.change.value == -0.25 < found.change.high
    assert seen == [(4, 8), (8, 8)]


GOOD = json.dumps({"prompt": "a", "answer": "b"})


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        ([GOOD, "", "{"], "line 3: '{' is not valid JSON"),
        (["[" * 100_000], "line 1: .* is not valid JSON"),
        ([GOOD, "[]"], r"line 2: '\[\]' is not a JSON object"),
        (['{"answer": "b"}'], 'line 1: "prompt" is not a text or is empty'),
        ([GOOD, GOOD, '{"prompt": "a", "answer": 7}'], 'line 3: "answer" is not a text'),
        (['{"prompt": "a", "answer": " "}'], 'line 1: "answer" is not a text or is empty'),
        (["", " "], "there are no questions in it; expected lines such as"),
    ],
)
def test_a_bad_line_is_named(tmp_path, lines, match):
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(wkv.InputError, match=match):
        read_questions(path)
