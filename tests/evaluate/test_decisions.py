"""Decisions: probabilities against whole sequences, known answers, and what may not matter."""

import json
import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import wkv
from tests.checkpoints import random_checkpoint, save_pth
from wkv.cli import main
from wkv.errors import InputError
from wkv.evaluate.decisions import Option, Question, decision_steps
from wkv.evaluate.decisions.ask import label_logprobs, reply_lead
from wkv.evaluate.decisions.labels import form_of, label_names
from wkv.prompting.template import Message, Thinking, template_for

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
HELLO = [Message("user", "Hello"), Message("assistant", "Hello! How can I help you?")]


@pytest.fixture(scope="module")
def demo():
    return wkv.load(strategy="cpu fp32")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    path = tmp_path_factory.mktemp("world") / "m.pth"
    save_pth(random_checkpoint("7", n_layer=1, n_embd=64, vocab_size=65536), path)
    return wkv.load(path, "cpu fp32")


def test_known_answers(demo):
    draw = random.Random(0)
    questions, expected = [], []
    for number, month in enumerate(MONTHS):
        questions.append(Question.choice(f"Which month comes after {month}?", MONTHS))
        expected.append(MONTHS[(number + 1) % 12])
    for _ in range(20):
        a, b = draw.sample(range(1, 500), 2)
        questions.append(Question.choice(f"Which is bigger, {a} or {b}?", [str(a), str(b)]))
        expected.append(str(max(a, b)))
    answers = wkv.decide(demo, HELLO, questions)
    assert [answer.value for answer in answers] == expected
    assert all(answer.confidence > 0.5 for answer in answers)


def test_an_answer_depends_neither_on_the_other_questions_nor_on_the_run(demo):
    questions = [Question.choice(f"Which month comes after {m}?", MONTHS) for m in MONTHS] * 2
    together = wkv.decide(demo, "Hello", questions)
    assert together == wkv.decide(demo, "Hello", questions)
    for number in (0, 7, 23):
        assert wkv.decide(demo, "Hello", [questions[number]])[0] == together[number]


def test_the_text_is_read_once(demo):
    def tokens(count):
        steps = decision_steps(demo, "one two " * 400, [Question.predicate("Is it?")] * count)
        try:
            while True:
                next(steps)
        except StopIteration as end:
            return end.value.tokens

    one, many = tokens(1), tokens(41)
    assert many - one == 40 * (tokens(2) - one)
    assert many < 2 * one


def test_the_state_that_is_given_is_not_changed(demo):
    _, state = demo.forward(demo.tokenizer.encode("User: Hello\n\n"))
    kept = state.clone()
    wkv.decide(demo, HELLO, ["Is it?"], state=state)
    assert all(torch.equal(a.wkv, b.wkv) for a, b in zip(state.layers, kept.layers, strict=True))


@settings(max_examples=25, deadline=None)
@given(
    labels=st.lists(
        st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=2, max_size=6, unique_by=tuple
    )
)
def test_probabilities_of_labels_are_those_of_whole_sequences(demo, labels):
    logits, state = demo.forward([7, 8, 9])

    def probability(ids):
        logprob, row, after = 0.0, logits, state
        for token in ids:
            logprob += float(row.double().log_softmax(-1)[token])
            row, after = demo.forward([token], after)
        return math.exp(logprob)

    expected = {tuple(ids): probability(ids) for ids in labels}
    for ids in sorted(expected, key=len, reverse=True):  # without the labels that continue it
        longer = [other for other in expected if other != ids and other[: len(ids)] == ids]
        nearest = [
            one for one in longer if not any(o != one and one[: len(o)] == o for o in longer)
        ]
        expected[ids] = max(0.0, probability(ids) - sum(probability(one) for one in nearest))
    found = label_logprobs(demo, state, labels).exp()
    for value, ids in zip(found.tolist(), labels, strict=True):
        assert value == pytest.approx(expected[tuple(ids)], rel=1e-4, abs=1e-12)


def test_scores_and_confidence():
    score = Question.score("How good?", ["bad", "fair", "good"])
    sure = wkv.Answer(score, (0.0, 0.0, 1.0), 1.0)
    assert (sure.value, sure.score, sure.confidence) == (2, 2.0, 1.0)
    unsure = wkv.Answer(score, (1 / 3, 1 / 3, 1 / 3), 1.0)
    assert unsure.score == pytest.approx(1)
    assert unsure.confidence == pytest.approx(0)
    choice = wkv.Answer(Question.choice("?", ["a", "b"]), (0.75, 0.25), 0.9)
    assert (choice.value, choice.confidence) == ("a", 0.5)
    assert wkv.Answer(Question.predicate("?"), (0.2, 0.8), 1.0).value is False


def test_forms():
    choice = Question.choice("Which?", [Option("x", "x", "first\n\none"), "y"])
    form = form_of(choice, letters=True)
    assert form.text == (
        "Question: Which?\nA: x - first\none\nB: y\nAnswer with the letter of one option only."
    )
    assert form.labels == ("A", "B")
    assert form_of(choice, letters=False).labels == ("x", "y")
    assert form_of(Question.predicate("Is it?"), letters=True).labels == ("yes", "no")
    assert list(label_names(27)) == [f"{number:02}" for number in range(27)]
    assert label_names(255)[-1] == "254"


def test_labels_of_world_models_are_single_tokens(world):
    for label in [*label_names(26), *label_names(100), "yes", "no"]:
        assert len(world.tokenizer.encode(f" {label}")) == 1
        assert len(world.tokenizer.encode(label)) == 1


def test_a_model_that_thinks_closes_its_thoughts_first(world, monkeypatch):
    lead = reply_lead(world, template_for(world))
    assert lead.startswith(Thinking.SKIPPED.assistant_prefix)
    (answer,) = wkv.decide(world, "A text.", ["Is it a text?"])
    assert sum(answer.probabilities) == pytest.approx(1)
    assert 0 <= answer.label_mass <= 1


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("", "no instructions"),
        ({"type": "maybe"}, "predicate, choice, score"),
        ({"type": "choice", "instructions": "?"}, "a list of its possible answers"),
        ({"type": "choice", "instructions": "?", "choices": ["a"]}, "1 possible answers"),
        ({"type": "choice", "instructions": "?", "choices": ["a", "a"]}, "occurs twice"),
        ({"type": "choice", "instructions": "?", "choices": ["a", " "]}, "is empty"),
        ({"type": "choice", "instructions": "?", "choices": ["a", 5]}, "expected a text"),
        ({"type": "score", "instructions": "?", "levels": []}, "0 possible answers"),
        ({"type": "predicate", "instructions": "?", "name": 5}, "expected a text"),
        (5, "expected a text, or an object"),
    ],
)
def test_invalid_questions(demo, question, message):
    with pytest.raises(InputError, match=message):
        wkv.decide(demo, "text", [question])


def test_without_text_or_questions(demo):
    for text in ("", " \n", []):
        with pytest.raises(InputError, match=r"empty|no messages"):
            wkv.decide(demo, text, ["Is it?"])
    with pytest.raises(InputError, match="0 questions, expected 1 to 400"):
        wkv.decide(demo, "text", [])


def test_the_command(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("Hello")
    ask = ["--ask", f"Which month comes after May?: {' | '.join(MONTHS)}", "--ask", "Is it?"]
    assert main(["decide", str(text), *ask]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Which month comes after May?  June  (")
    assert lines[1].endswith("% yes)")
    questions = tmp_path / "questions.jsonl"
    score = {"type": "score", "instructions": "How long?", "levels": ["short", "long"]}
    questions.write_text(json.dumps({**score, "name": "length"}) + "\n\n")
    assert main(["decide", str(text), "--questions", str(questions), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["question"] == "length"
    assert set(found["probabilities"]) == {"short", "long"}
    questions.write_text("{\n")
    assert main(["decide", str(text), "--questions", str(questions)]) == 1
    assert "questions.jsonl, line 1: this is not JSON" in capsys.readouterr().err
