"""Speculative decoding in the chat and on the command line: the same text, numbers, and errors."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import wkv
from wkv.chat import ChatReply, ChatStore, Conversation, Session, answer
from wkv.cli import main
from wkv.inference.speculation import speculation_for
from wkv.native import library

pytestmark = pytest.mark.skipif(
    library.missing_reason() is not None, reason=str(library.missing_reason())
)


def talk(demo, folder, speculation):
    """Have the same conversation; returns the session and the replies."""
    conversation = Conversation(demo)
    greedy = replace(conversation.settings.sampling, temperature=0, presence_penalty=0)
    conversation.settings = replace(conversation.settings, sampling=greedy, max_tokens=30)
    conversation.speculation = speculation
    session = Session(demo, conversation, ChatStore(folder), seed=1)
    session.free.length = 20
    replies = []
    for line in ("Count from 1 to 9.", "+fork other", "Count from 1 to 9.", "+undo", "+gen Alice"):
        outcome = answer(session, line)
        if isinstance(outcome, ChatReply):
            replies.append("".join(outcome))
            session.finish(outcome)
    return session, replies


def test_a_chat_with_drafts_says_the_same_and_counts_them(demo, tmp_path):
    plain, expected = talk(demo, tmp_path, None)
    session, replies = talk(demo, tmp_path, speculation_for(demo, 4))
    assert replies == expected
    assert session.conversation.state.tokens_seen == plain.conversation.state.tokens_seen
    assert torch.equal(session.conversation.state.logits, plain.conversation.state.logits)
    facts = session.facts
    assert 0 < facts["accepted"] < facts["drafted"]
    assert facts["per_pass"] > 1
    shown = answer(session, "+stats").text
    assert f"Drafts: {facts['accepted']} of {facts['drafted']} tokens accepted" in shown
    assert "Drafts" not in answer(plain, "+stats").text
    assert session.conversation.now.mark.ids[: len(session.conversation.now.mark.ids)]
    assert len(session.conversation.now.mark.ids) == session.conversation.state.tokens_seen[0]


def run(capfd, monkeypatch, *arguments):
    """Run a command in this process; returns its status, stdout and stderr."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
    status = main(list(arguments))
    return status, *capfd.readouterr()


def test_the_command_gives_the_same_text(capfd, monkeypatch):
    common = ("generate", "--prompt", "Alice was", "--max-tokens", "30", "--seed", "3", "--json")
    texts = [
        json.loads(run(capfd, monkeypatch, *common, "--speculate", value)[1])
        for value in ("off", "auto", "5")
    ]
    assert texts[0] == texts[1] == texts[2]


def test_a_draft_model_with_another_vocabulary_is_an_error(capfd, monkeypatch, byte_model):
    status, _, shown = run(
        capfd, monkeypatch, "generate", "--prompt", "A", "--draft", str(byte_model.path)
    )
    assert status == 1
    assert "use a draft model with the same vocabulary" in shown
    status, _, shown = run(
        capfd, monkeypatch, "generate", "--prompt", "A", "--draft", "x.pth", "--speculate", "off"
    )
    assert (status, "--draft needs speculative decoding" in shown) == (1, True)


@pytest.mark.parametrize("value", ["0", "17", "on", "-1", "2.5"])
def test_wrong_values_are_wrong_usage(capfd, value):
    with pytest.raises(SystemExit) as error:
        main(["generate", "--prompt", "A", f"--speculate={value}"])
    assert error.value.code == 2
    assert "is not auto, off or a number from 1 to 16" in capfd.readouterr().err


def test_a_number_is_an_error_on_other_engines(capfd, monkeypatch):
    common = ("generate", "--prompt", "A", "--max-tokens", "3", "--strategy", "cpu fp32i8")
    assert run(capfd, monkeypatch, *common)[0] == 0  # auto is off there
    status, _, shown = run(capfd, monkeypatch, *common, "--speculate", "3")
    assert status == 1
    assert "only the native CPU engine" in shown


def test_adapters_and_tuned_states_are_drafted_too(demo):
    _, state = demo.forward(demo.tokenizer.encode("Once upon a time"))
    tuned = replace(state, tokens_seen=(0,), logits=None)
    options = {"sampling": wkv.Sampling(seed=2), "max_tokens": 40, "state": tuned}
    plain = wkv.generate(demo, "Alice", speculate="off", **options)
    drafted = wkv.generate(demo, "Alice", speculate=4, **options)
    assert (drafted.text, drafted.token_ids) == (plain.text, plain.token_ids)
    assert torch.equal(drafted.state.logits, plain.state.logits)


def test_the_example_of_the_documentation_runs(capsys):
    page = (Path(__file__).parents[2] / "docs" / "speculation.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(code, "speculation.md", "exec"), {})
    assert len(capsys.readouterr().out.split()) == 3
