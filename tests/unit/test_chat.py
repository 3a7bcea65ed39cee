"""Conversations: the turns that a model is fed, whatever way a reply ended."""

import pytest
import torch

import wkv
from tests.checkpoints import random_checkpoint, save_pth
from wkv.chat import EXACT_SAMPLING, Conversation, clean, sampling_for, template_for


def _say(conversation, message):
    reply = conversation.reply(message)
    text = "".join(reply)
    conversation.finish(reply)
    return text


def _read(demo, text):
    return demo.forward(demo.tokenizer.encode(text))[1]


@pytest.fixture
def conversation(demo):
    """Give a conversation with the built-in model."""
    return Conversation(demo, EXACT_SAMPLING)


def test_turns_are_read_once_and_in_the_format_of_training(demo, conversation):
    first = _say(conversation, "My name is Tadeus.")
    second = _say(conversation, "What is my name?")
    whole = (
        f"User: My name is Tadeus.\n\nAssistant:{first}\n\n"
        f"User: What is my name?\n\nAssistant:{second}\n\n"
    )
    assert "Tadeus" in second
    expected = _read(demo, whole)
    assert conversation.state.tokens_seen == expected.tokens_seen
    assert (conversation.state.layers[2].wkv - expected.layers[2].wkv).abs().max() < 1e-3


def test_an_interrupted_reply_is_closed_before_the_next_turn(demo, conversation):
    reply = conversation.reply("Who are you?")
    said = next(reply) + next(reply)
    said += reply.interrupt()
    conversation.finish(reply)
    answer = _say(conversation, "What is 2 + 3?")
    whole = (
        f"User: Who are you?\n\nAssistant:{said}\n\nUser: What is 2 + 3?\n\nAssistant:{answer}\n\n"
    )
    assert conversation.state.tokens_seen == _read(demo, whole).tokens_seen


def test_messages_cannot_hold_the_end_of_a_turn():
    assert clean("  a\r\n\r\n\n\nb \n") == "a\nb"
    with pytest.raises(wkv.InputError, match="message is empty"):
        clean(" \n\n ")


def test_templates_and_sampling_follow_the_model(demo, tmp_path, checkpoint_paths):
    assert template_for(demo).turn("hi") == "User: hi\n\nAssistant:"
    assert sampling_for(wkv.load()).temperature == 0
    save_pth(random_checkpoint("4", n_layer=1, n_embd=32, vocab_size=50277), tmp_path / "raven.pth")
    raven = wkv.load(tmp_path / "raven.pth", "cpu fp32")
    assert template_for(raven).turn("hi") == "Bob: hi\n\nAlice:"
    assert sampling_for(raven).temperature > 0
    assert torch.is_tensor(raven.forward([1])[0])
