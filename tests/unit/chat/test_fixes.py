"""ChatRWKV's chat: one test for each defect that is fixed (fix) and each behavior kept (keep)."""

from dataclasses import replace

import pytest
import torch

import wkv
from tests.unit.chat.talking import PreferringModel, same, say, type_line
from wkv.chat import ChatSettings, ChatStore, Conversation, Session, preset_for, template_for
from wkv.chat.free_text import FreeText, continuation
from wkv.chat.inline_options import split_options
from wkv.chat.newline_rules import FORBIDDEN, for_chat, for_free_text, newline_adjustment
from wkv.chat.prompt_files import OpeningPrompt, prepared, read_prompt
from wkv.chat.settings import default_settings
from wkv.inference.sample_batch import sample_batch
from wkv.inference.sampling import Sampler, Sampling
from wkv.prompting.presets import CHAT, CHATRWKV, EXACT
from wkv.prompting.template import clean

GREEDY_CHATRWKV = ChatSettings(
    replace(CHATRWKV, name="greedy"),
    wkv.Sampling(temperature=0, presence_penalty=0, frequency_penalty=0),
    999,
)
LETTER = ord("z") + 1


def test_fix_world_models_are_detected_by_their_vocabulary_not_by_their_name(world_model):
    assert "World" not in world_model.path.name
    assert template_for(world_model).user == "User"
    assert preset_for(world_model) is CHAT
    assert world_model.tokenizer.end_of_text == 0


def test_fix_prompt_files_are_not_executed(tmp_path):
    victim = tmp_path / "victim"
    path = tmp_path / "prompt.py"
    path.write_text(f"user = 'A'\nbot = open({str(victim)!r}, 'w').name\n")
    with pytest.raises(wkv.InputError, match=r"prompt.py, line 2: .* not executed"):
        read_prompt(path)
    assert not victim.exists()


@pytest.mark.parametrize("newlines", range(2, 9))
def test_fix_any_number_of_newlines_becomes_one(newlines):
    assert clean("a" + "\n" * newlines + "b") == "a\nb"
    assert clean("a" + "\r\n" * newlines + "b") == "a\nb"


@pytest.mark.parametrize("number", ["0.5", "0.50", "5e-1", ".5", "+0.5", "00.5"])
def test_fix_options_are_removed_however_the_number_is_written(number):
    for line in (f"-temp={number} say hi", f"say -temp={number} hi", f"say hi -temp={number}"):
        options = split_options(line)
        assert options.text == "say hi"
        assert options.values == {"temperature": 0.5}


@pytest.mark.parametrize("value", ["abc", "", "1,5", "nan", "inf", "1e999", "0x1"])
def test_fix_options_without_a_number_are_an_error_and_nothing_is_sent(session, value):
    type_line(session, "My name is Tadeus.")
    before = session.conversation.now
    for name in ("temp", "top_p"):
        with pytest.raises(wkv.InputError, match=f"-{name}=.* is not a number"):
            type_line(session, f"Hello -{name}={value}")
    assert session.conversation.now is before
    assert "Tadeus" in type_line(session, "What is my name?")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-temp=0", 0.2),
        ("-temp=-3", 0.2),
        ("-temp=9", 5.0),
        ("-top_p=-1", 0.0),
        ("-top_p=0", 0.0),
        ("-top_p=1.5", 1.0),
        ("-top_p=0.25", 0.25),
    ],
)
def test_fix_top_p_has_an_upper_bound_like_the_other_clamps(line, expected):
    assert list(split_options(line).values.values()) == [expected]


def test_fix_top_p_of_one_keeps_all_tokens():
    samplers = [Sampler(Sampling(top_p=1.0)) for _ in range(20)]
    assert len(set(sample_batch(torch.zeros(20, 65536), samplers))) > 10


@pytest.mark.parametrize("model_name", ["world_model", "raven_model"])
def test_fix_the_end_of_text_is_banned_for_the_first_token_too(model_name, request):
    model = request.getfixturevalue(model_name)
    wishful = PreferringModel(model, model.tokenizer.end_of_text)
    conversation = Conversation(wishful, replace(GREEDY_CHATRWKV, max_tokens=5))
    reply = conversation.reply("hi")
    list(reply)
    assert reply.result.token_ids == 5 * [LETTER]


@pytest.mark.parametrize("newline", ["\n", "\n\n", "\n\n\n"])
@pytest.mark.parametrize("model_name", ["world_model", "raven_model"])
def test_fix_neither_newline_token_can_begin_a_reply(model_name, newline, request):
    model = request.getfixturevalue(model_name)
    token = model.tokenizer.encode(newline)
    assert len(token) == 1
    conversation = Conversation(PreferringModel(model, token[0]), GREEDY_CHATRWKV)
    reply = conversation.reply("hi")
    list(reply)
    # Newlines are adjusted after the first token too; the preference wins at the third token.
    assert reply.result.token_ids[:3] == [LETTER, LETTER, token[0]]


def test_fix_a_reply_without_an_end_is_closed_before_the_next_turn(byte_model):
    settings = replace(GREEDY_CHATRWKV, max_tokens=40)
    conversation = Conversation(PreferringModel(byte_model, ord("a")), settings)
    reply = conversation.reply("hi")
    assert "".join(reply) == 40 * "a"
    assert reply.result.finish_reason == "length"
    conversation.finish(reply)
    assert conversation.now.mark.read_ahead == ""
    say(conversation, "ho")
    whole = f"User: hi\n\nAssistant:{40 * 'a'}\n\nUser: ho\n\nAssistant:{40 * 'a'}"
    assert same(conversation.state, byte_model.forward(list(whole.encode()))[1])
    assert CHATRWKV.max_tokens == 999


def test_fix_the_logits_of_free_text_are_stored_without_penalties(demo):
    free = FreeText(demo)
    sampling = wkv.Sampling(presence_penalty=5, frequency_penalty=5, seed=1)
    settings = replace(default_settings(demo), sampling=sampling, prose=None)
    reply = free.begin(continuation("Alice was"), settings)
    text = "".join(reply)
    free.finish(reply)
    ids = [*demo.tokenizer.encode("\nAlice was"), *reply.result.token_ids]
    expected, _ = demo.forward(ids)
    assert text
    assert torch.allclose(free._end.state.logits[0], expected, atol=1e-3)


def test_fix_a_new_prompt_starts_from_the_empty_state_and_reset_and_qa_return_to_it(
    session, demo, tmp_path
):
    type_line(session, "My name is Tadeus.")
    path = tmp_path / "prompt.py"
    path.write_text("user = 'User'\nbot = 'Assistant'\ninit_prompt = f'{user}: My name is Ben.'\n")
    type_line(session, f"+prompt {path}")
    expected = demo.forward(demo.tokenizer.encode("\nUser: My name is Ben.\n\n"))[1]
    assert same(session.conversation.state, expected)
    assert "Tadeus" not in type_line(session, "What is my name?")
    type_line(session, "+reset")
    assert same(session.conversation.state, expected)
    type_line(session, "+qa What is 1 + 2?")
    begun = session.free._begin.state
    turn = "\nUser: My name is Ben.\n\nUser: What is 1 + 2?\n\nAssistant:"
    assert same(begun, demo.forward(demo.tokenizer.encode(turn))[1])


def test_fix_a_missing_prompt_file_leaves_the_conversation(session):
    type_line(session, "My name is Tadeus.")
    with pytest.raises(wkv.InputError, match=r"nothing\.py cannot be read"):
        type_line(session, "+prompt nothing.py")
    assert "Tadeus" in type_line(session, "What is my name?")


def test_keep_the_newline_schedule():
    assert newline_adjustment(-1) == newline_adjustment(0) == FORBIDDEN == -999999999
    assert newline_adjustment(1) == -3.9
    assert newline_adjustment(30) == -1
    assert newline_adjustment(40) == newline_adjustment(41) == newline_adjustment(150) == 0
    assert newline_adjustment(151) == 0.25
    assert newline_adjustment(162) == newline_adjustment(800) == 3


def test_keep_punctuation_is_not_sampled_directly_after_itself(world_model):
    for mark in "，：？！":
        (token,) = world_model.tokenizer.encode(mark)
        logits = torch.zeros(65536)
        rules = for_chat(world_model.tokenizer, last_read=11)
        assert rules(logits, [5, token])[token] == -torch.inf
        assert rules(logits, [token, 5])[token] == 0
        assert for_chat(world_model.tokenizer, last_read=token)(logits, [])[token] == -torch.inf
        assert logits.count_nonzero() == 0  # the logits are not changed in place


def test_keep_punctuation_of_several_tokens_is_ignored(demo):
    assert for_chat(demo.tokenizer, 0).punctuation == frozenset()


def test_keep_qa_makes_newlines_rare_and_free_text_may_end(world_model):
    logits = torch.zeros(65536)
    adjusted = for_free_text(world_model.tokenizer, 5, -2.0)(logits, [7])
    assert [float(adjusted[token]) for token in (0, 11, 261, 12)] == [0, -2, -2, 0]


def test_keep_digits_count_in_a_chat_and_nowhere_else():
    for preset, weight in ((CHATRWKV, 1.0), (CHAT, 0.0)):
        sampler = Sampler(preset.sampling)
        sampler.record(5, "7")
        assert (sampler.counts.ids.tolist(), sampler.counts.counts.tolist()) == ([5], [weight])


def test_keep_penalties_start_empty_with_every_message(byte_model):
    settings = replace(GREEDY_CHATRWKV, max_tokens=3)
    settings = replace(settings, sampling=replace(settings.sampling, presence_penalty=15.0))
    conversation = Conversation(PreferringModel(byte_model, ord("a")), settings)
    assert {say(conversation, "hi") for _ in range(3)} == {"a{a"}


def test_keep_free_text_does_not_change_the_chat(session):
    type_line(session, "My name is Tadeus.")
    before = session.conversation.now
    for line in ("+gen Alice", "++", "+++", "+i Add.", "+qq Why?", "+qa What is 1 + 2?", "++"):
        type_line(session, line)
    assert session.conversation.now is before
    assert "Tadeus" in type_line(session, "What is my name?")


def test_keep_free_text_continues_at_its_end_and_retries_from_its_beginning(session):
    first = type_line(session, "+gen Alice was")
    begun = session.free._begin.state
    assert session.free._begin.n_tokens == len(session.model.tokenizer.encode("\nAlice was"))
    assert type_line(session, "++") != first
    assert session.free._begin.state is begun
    ended = session.free._end.state
    assert type_line(session, "+++")
    assert session.free._begin.state is ended


def test_keep_free_text_ends_with_a_whole_character(byte_model, tmp_path):
    # The model repeats "é": the text is complete after 256 bytes, and would not be after 257.
    wishful = PreferringModel(byte_model, 0xC3, {0xC3: 0xA9})
    session = Session(wishful, Conversation(wishful, ChatSettings.of(EXACT)), ChatStore(tmp_path))
    assert type_line(session, "+gen a") == 128 * "é"
    wishful = PreferringModel(byte_model, 0xE4, {0xE4: 0xBD, 0xBD: 0xA0})
    session = Session(wishful, Conversation(wishful, ChatSettings.of(EXACT)), ChatStore(tmp_path))
    assert type_line(session, "+gen a") == 86 * "你"
    assert type_line(session, "+++") == 86 * "你"


def test_keep_the_20b_tokens_of_an_opening_prompt_end_in_two_single_newlines(raven_model):
    conversation = Conversation(raven_model)
    conversation.begin(OpeningPrompt(template_for(raven_model), prepared("Bob: hi")))
    ids = raven_model.tokenizer.encode("\nBob: hi\n\n")
    assert ids[-1] == 535
    expected = raven_model.forward([*ids[:-1], 187, 187])[1]
    assert same(conversation.state, expected)


def test_keep_world_openings_end_in_the_double_newline(world_model):
    conversation = Conversation(world_model)
    conversation.begin(OpeningPrompt(template_for(world_model), prepared("User: hi")))
    expected = world_model.forward([0, *world_model.tokenizer.encode("\nUser: hi"), 261])[1]
    assert same(conversation.state, expected)
