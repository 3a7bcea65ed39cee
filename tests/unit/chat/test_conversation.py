"""Conversations: the text that a model reads, all endings of a reply, and going back."""

from dataclasses import replace

import pytest

import wkv
from tests.unit.chat.talking import ScriptedModel, same, say
from wkv.chat import ChatSettings, Conversation, Template, clean, preset_for, template_for
from wkv.chat.conversation import MAX_UNDO
from wkv.chat.prompt_files import OpeningPrompt, prepared
from wkv.prompting.presets import CHAT, CHATRWKV, EXACT
from wkv.prompting.template import Thinking, unread_part


def _read(model, text):
    return model.forward(model.tokenizer.encode(text))[1]


@pytest.fixture
def conversation(demo):
    """Give a conversation with the built-in model."""
    return Conversation(demo)


def test_each_turn_is_read_once_in_the_format_of_training(demo, conversation):
    first = say(conversation, "My name is Tadeus.")
    second = say(conversation, "What is my name?")
    whole = (
        f"User: My name is Tadeus.\n\nAssistant:{first}\n\n"
        f"User: What is my name?\n\nAssistant:{second}\n\n"
    )
    assert "Tadeus" in second
    assert same(conversation.state, _read(demo, whole))


def test_an_interrupted_reply_is_closed_before_the_next_turn(demo, conversation):
    reply = conversation.reply("Who are you?")
    said = next(reply) + next(reply)
    said += reply.interrupt()
    conversation.finish(reply)
    answer = say(conversation, "What is 2 + 3?")
    whole = (
        f"User: Who are you?\n\nAssistant:{said}\n\nUser: What is 2 + 3?\n\nAssistant:{answer}\n\n"
    )
    assert same(conversation.state, _read(demo, whole))


def test_memory_and_tokens_read_per_turn_are_constant_over_200_turns(byte_model):
    model = ScriptedModel(byte_model, b"hm")
    conversation = Conversation(model, replace(ChatSettings.of(EXACT), max_tokens=2))
    read, sizes = [], []
    for _ in range(200):
        reply = conversation.reply("ho")
        assert "".join(reply) == "hm"
        conversation.finish(reply)
        read.append(reply.prefilled.n_tokens)
        sizes.append(conversation.state.n_bytes)
    turn = "User: ho\n\nAssistant:"
    assert read == [len(turn), *(199 * [len("\n\n" + turn)])]
    assert len(set(sizes)) == 1
    assert len(conversation.past) == MAX_UNDO
    assert len(conversation.now.entries) == 200
    whole = "\n\n".join(200 * [turn + "hm"])
    assert same(conversation.state, _read(byte_model, whole))


def test_many_turns_give_the_state_of_reading_them_at_once(demo, conversation):
    for _ in range(30):
        assert say(conversation, "What is 1 + 2?") == " 1 + 2 = 3"
    turn = "User: What is 1 + 2?\n\nAssistant: 1 + 2 = 3\n\n"
    assert same(conversation.state, _read(demo, 30 * turn))


def test_a_reply_of_rwkv_7_has_paragraphs_and_ends_at_the_next_user_turn(byte_model):
    model = ScriptedModel(byte_model, b" One.\n\nTwo.\n\nUser: Three")
    conversation = Conversation(model, ChatSettings.of(EXACT))
    assert say(conversation, "hi") == " One.\n\nTwo."
    assert conversation.now.mark.read_ahead == "\n\nUser:"
    reply = conversation.reply("ho")
    assert reply.prefilled.n_tokens == len(" ho\n\nAssistant:")
    assert "".join(reply) == " One.\n\nTwo."
    conversation.finish(reply)
    whole = "".join(f"User: {m}\n\nAssistant: One.\n\nTwo.\n\n" for m in ("hi", "ho")) + "User:"
    assert same(conversation.state, _read(byte_model, whole))


def test_a_reply_ends_at_a_blank_line_if_the_preset_says_so(byte_model):
    model = ScriptedModel(byte_model, b" One.\n\nTwo.")
    settings = ChatSettings.of(replace(EXACT, at_blank_line=True))
    conversation = Conversation(model, settings)
    assert say(conversation, "hi") == " One."
    assert conversation.now.mark.read_ahead == "\n\n"
    thinking = replace(settings, thinking=Thinking.FREE, max_tokens=11)
    assert say(conversation, "hi", settings=thinking) == " One.\n\nTwo."


def test_a_reply_that_the_model_ended_is_closed_before_the_next_turn(world_model):
    model = ScriptedModel(world_model, [*world_model.tokenizer.encode(" One."), 0])
    conversation = Conversation(model, ChatSettings.of(EXACT))
    for _ in range(2):
        assert say(conversation, "hi") == " One."
        assert conversation.now.mark.read_ahead == ""
    ids = world_model.tokenizer.encode("User: hi\n\nAssistant: One.\n\nUser: hi\n\nAssistant: One.")
    assert same(conversation.state, world_model.forward([0, *ids])[1])


@pytest.mark.parametrize(
    ("read_ahead", "left"),
    [
        ("", "\n\nUser: hi"),
        ("\n", "\nUser: hi"),
        ("\n\n", "User: hi"),
        ("\n\n\n", "User: hi"),
        ("\n\nUser:", " hi"),
        ("\n\nUser: ", "hi"),
        ("\nUser:", " hi"),
        ("\n\nUser: so", "\n\nUser: hi"),
    ],
)
def test_text_that_was_read_ahead_is_not_read_again(read_ahead, left):
    assert unread_part("User: hi", read_ahead) == left


def test_again_undo_and_reset_return_to_earlier_states(demo, conversation):
    assert conversation.again() is None
    assert not conversation.undo()
    say(conversation, "My name is Tadeus.")
    before = conversation.now
    first = say(conversation, "What is my name?")
    after = conversation.state
    reply = conversation.again()
    assert "".join(reply) == first
    conversation.finish(reply)
    assert same(conversation.state, after)
    assert len(conversation.now.entries) == 2
    assert conversation.undo()
    assert conversation.now is before
    conversation.reset()
    assert conversation.state is None
    assert conversation.again() is None
    assert conversation.undo()
    assert conversation.now is before


def test_forks_are_independent(conversation):
    say(conversation, "My name is Tadeus.")
    fork = conversation.fork()
    say(fork, "My name is Anna.")
    assert "Tadeus" in say(conversation, "What is my name?")
    assert "Anna" in say(fork, "What is my name?")


def test_reset_returns_to_the_system_prompt(demo, conversation):
    say(conversation, "Hello")
    conversation.system("You are\n\nkind.")
    assert same(conversation.state, _read(demo, "System: You are\nkind.\n\n"))
    say(conversation, "Hello")
    conversation.reset()
    assert same(conversation.state, _read(demo, "System: You are\nkind.\n\n"))
    for _ in range(3):
        assert conversation.undo()
    assert len(conversation.now.entries) == 1


def test_a_document_is_read_in_chunks_and_ctrl_c_changes_nothing(demo, conversation):
    say(conversation, "Hello")
    before = conversation.now
    text = "The tower is green.\n\n\n\n" * 400
    calls = []
    done = conversation.read(text, lambda *numbers: calls.append(numbers))
    assert [count for count, _ in calls][-1] == done.n_tokens
    assert len(calls) > 3
    cleaned = "\n".join(["The tower is green."] * 400)
    said = before.entries[0].reply
    whole = f"User: Hello\n\nAssistant: {said}\n\nUser: {cleaned}\n\nAssistant: I have read it.\n\n"
    assert same(conversation.state, _read(demo, whole))
    conversation.undo()

    def stop(count, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conversation.read(text, stop)
    assert conversation.now is before


def test_thinking_modes_add_words_and_the_beginning_of_the_reply():
    template = Template()
    assert template.turn("hi", Thinking.FREE) == "User: hi\n\nAssistant: <think"
    assert template.turn("hi", Thinking.SKIPPED) == "User: hi\n\nAssistant: <think>\n</think"
    assert template.turn("hi", Thinking.SOME) == "User: hi (think)\n\nAssistant: <think"
    assert template.turn("hi", Thinking.A_BIT) == "User: hi (think a bit)\n\nAssistant: <think"
    assert template.turn("hi", Thinking.A_LOT) == "User: hi (think a lot)\n\nAssistant: <think"


def test_messages_cannot_contain_the_end_of_a_turn():
    assert clean("  a\r\n\r\n\n\nb \n") == "a\nb"
    with pytest.raises(wkv.InputError, match="message is empty"):
        clean(" \n\n ")


def test_templates_and_presets_follow_the_model(demo, world_model, old_world_model):
    assert template_for(demo).turn("hi") == "User: hi\n\nAssistant:"
    assert preset_for(demo) is EXACT
    assert preset_for(world_model) is CHAT
    assert preset_for(old_world_model) is CHATRWKV
    assert Conversation(demo).settings.prose == wkv.Sampling()
    assert Conversation(world_model).settings.prose is None


def test_the_speakers_of_raven_models_are_bob_and_alice(raven_model):
    assert template_for(raven_model).turn("hi") == "Bob: hi\n\nAlice:"
    assert preset_for(raven_model) is CHATRWKV


def test_openings_are_read_once(world_model):
    conversation = Conversation(world_model, replace(ChatSettings.of(EXACT), max_tokens=3))
    conversation.begin(OpeningPrompt(Template(), prepared("User: hi\n\nAssistant: Hello.")))
    text = "\nUser: hi\n\nAssistant: Hello.\n\n"
    ids = [0, *world_model.tokenizer.encode(text)]
    assert conversation.state.tokens_seen == (len(ids),)
    assert same(conversation.state, world_model.forward(ids)[1])
