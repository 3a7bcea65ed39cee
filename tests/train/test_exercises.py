"""The exercises: right answers, and a training set that never meets the evaluation."""

import re
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.demo_model.dialogues import conversation, evaluation_set, prompt, segments
from recipes.demo_model.exercises import Source, is_held_out, words_of
from recipes.demo_model.facts import plural
from recipes.demo_model.kinds import KINDS
from recipes.demo_model.replies import REPLIES

WORDS = words_of(
    " ".join(a + b + c for a in ("", "st", "gr") for b in ("one", "ight", "ail") for c in ends)
    for ends in (["", "s", "ed", "er"], ["ing", "ly", "like", "ness"])
)
SOURCE = Source(WORDS, WORDS[:5])
LEARNED_BY_HEART = {"next", "opp", "cap", "mul", "toobig", "intent"}

seeds = st.integers(0, 2**32)


@pytest.fixture(scope="module")
def evaluated():
    sets = evaluation_set(SOURCE, 200, seed=3)
    kinds = set(sets) - LEARNED_BY_HEART - {"count"}  # counting to n <= 20 is learned by heart, too
    return {question for kind in kinds for question, _ in sets[kind]}


@given(seeds)
def test_training_never_asks_what_the_evaluation_asks(evaluated, seed):
    for turn in conversation(SOURCE, Random(seed)):
        assert prompt(turn.question) not in evaluated


@given(seeds)
def test_sums_are_right_and_on_their_side_of_the_split(seed):
    for held_out in (False, True):
        source = replace(SOURCE, held_out=held_out, _of_kind={})
        for kind, sign in (("add", 1), ("sub", -1)):
            answer = KINDS[kind][0](source, Random(seed)).answer
            a, b, result = map(int, re.findall(r"-?\d+", answer.replace(" - ", " ")))
            assert a + sign * b == result
            key = (a, b) if kind == "add" else (max(a, b), min(a, b))
            assert is_held_out(kind, *key) == held_out


@given(seeds)
def test_words_are_answered_letter_by_letter(seed):
    makers = {kind: KINDS[kind][0](SOURCE, Random(seed)) for kind in ("rev", "upper", "spell")}
    for kind, (question, answer, _) in makers.items():
        letters = re.sub(r"[^A-Za-z]", "", answer).lower()
        word = letters[::-1] if kind == "rev" else letters
        assert word in question
        assert not is_held_out(kind, word)


@given(seeds)
def test_count_sort_and_compare(seed):
    random = Random(seed)
    numbers = [int(n) for n in KINDS["count"][0](SOURCE, random).answer.split(", ")]
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    digits = KINDS["sort"][0](SOURCE, random).answer.strip('"')
    assert list(digits) == sorted(digits)
    high, low = re.findall(r"\d+", KINDS["big"][0](SOURCE, random).answer)
    assert int(high) > int(low)


@pytest.mark.parametrize(
    ("noun", "nouns"),
    [("dog", "dogs"), ("fox", "foxes"), ("lady", "ladies"), ("toy", "toys"), ("mouse", "mice")],
)
def test_plural(noun, nouns):
    assert plural(noun) == nouns


@given(seeds)
def test_only_the_assistant_is_learned(seed):
    pieces = segments(conversation(SOURCE, Random(seed)), Random(seed))
    text = "".join(piece for piece, _ in pieces)
    assert text.startswith("User: ")
    assert text.endswith("\n\n")
    for piece, weight in pieces:
        assert piece.startswith("User: ") == (weight == 0)


def test_evaluation_asks_every_reply_and_every_kind():
    sets = evaluation_set(SOURCE, 5, seed=0)
    assert len(sets["intent"]) == len(REPLIES)
    assert {"add1", "add2", "add3", "sub1", "sub2", "sub3", "name", "name+1"} <= set(sets)
    assert sets == evaluation_set(SOURCE, 5, seed=0)
