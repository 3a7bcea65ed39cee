"""What a conversation is read as: never anything that was not said in it."""

import pytest

from wkv.batching import TextEvent
from wkv.prompting.template import Message, Template
from wkv.serve.key_value_store import KeyValueStore
from wkv.serve.parse_reply import Reply
from wkv.serve.render import Prompts, Start
from wkv.serve.reply_memory import Replies
from wkv.serve.response_format import ReplyFormat

ASK = Message("user", "How much is 2 + 2?")
START = Start("somebody")


@pytest.fixture
def prompts(demo):
    return Prompts(demo, Template(), Replies(KeyValueStore(), demo.identity))


def say(prompts, demo, drawn, told=None, assistant_prefix="", form=None, messages=(ASK,)):
    """Let a reply of drawn text be made, of which `told` were given out; as the server does."""
    prompt = prompts.reply_to(messages, START, assistant_prefix=assistant_prefix)
    reply = Reply(assistant_prefix, form=form or ReplyFormat())
    ids = demo.tokenizer.encode(drawn)
    reply.push(TextEvent(0, drawn if told is None else told, ids[0]))
    reply.token_ids[:] = ids
    reply.finish("stop")
    if reply.is_whole:
        prompts.remember(START, prompt, reply.message, ids, reply.characters)
    return reply, prompt


def text(prompts, demo, messages):
    return demo.tokenizer.decode(prompts.reply_to(messages, START).ids)


def after(reply, *messages):
    return [ASK, reply.message, *(messages or (Message("user", "And 3 + 3?"),))]


@pytest.mark.parametrize("ahead", ["", "\n", "\n\n", "\n\nUs", "\n\nUser:"])
def test_a_reply_is_read_once_whatever_was_drawn_beyond_it(prompts, demo, ahead):
    reply, prompt = say(prompts, demo, f" It is 4.{ahead}", " It is 4.")
    assert reply.content == "It is 4."
    whole = "User: How much is 2 + 2?\n\nAssistant: It is 4.\n\nUser: And 3 + 3?\n\nAssistant:"
    assert text(prompts, demo, after(reply)) == whole
    ids = prompts.reply_to(after(reply), START).ids
    drawn = demo.tokenizer.encode(f" It is 4.{ahead}")
    assert ids[: len(prompt.ids) + len(drawn)] == (*prompt.ids, *drawn)


def test_newlines_at_the_end_of_a_reply_are_read_once(prompts, demo):
    for newlines in range(5):
        reply, _ = say(prompts, demo, " Hello" + "\n" * newlines)
        assert "Hello\n\nUser: And" in text(prompts, demo, after(reply))


def test_thoughts_that_hold_the_answer_are_no_part_of_it(prompts, demo):
    drawn = "> 2 + 2 is 4, so 4. </think>\n4\n\nUser:"
    reply, _ = say(
        prompts, demo, drawn, drawn.removesuffix("\n\nUser:"), assistant_prefix=" <think"
    )
    assert (reply.reasoning, reply.content) == ("2 + 2 is 4, so 4.", "4")
    read = text(prompts, demo, after(reply))
    assert read.count("User:") == 2
    assert "</think>\n4\n\nUser: And 3 + 3?" in read
    without = Message("assistant", reply.content)  # as most clients send it back
    assert "think" not in text(prompts, demo, after(Reply("", content="4")))
    assert text(prompts, demo, [ASK, without, ASK]).count("User:") == 2


def test_what_stands_behind_a_stop_string_is_forgotten(prompts, demo):
    reply, _ = say(prompts, demo, " Paris is the capital. SECRET", " Paris is the")
    assert "SECRET" not in text(prompts, demo, after(reply))
    assert "capital" not in text(prompts, demo, after(reply))


def test_calls_that_were_not_told_are_forgotten(prompts, demo):
    form = ReplyFormat(names=("f",))
    drawn = '{"name": "f", "arguments": {"x":1}}\nSo: {"name": "f", "arguments": {"x":2}}'
    reply, _ = say(prompts, demo, drawn, form=form)
    assert len(reply.calls) == 1
    assert '"x":2' not in text(prompts, demo, after(reply))
    drawn = '{"name":"f",  "arguments": {"x":1}}'  # in other words than ours
    reply, _ = say(prompts, demo, f"{drawn}\n\nUser:", drawn, form=form)
    read = text(prompts, demo, after(reply))
    assert drawn in read
    assert read.count("User:") == 2


def test_a_name_that_was_read_is_that_of_who_speaks(prompts, demo):
    reply, _ = say(prompts, demo, " It is 4.\n\nUser:", " It is 4.")
    for role, name in (("system", "System"), ("assistant", "Assistant")):
        last = Message("user", "Bye")
        read = text(prompts, demo, after(reply, Message(role, "Be kind."), last))
        assert f"It is 4.\n\n{name}: Be kind.\n\nUser: Bye" in read
        assert read.count("User:") == 2


def test_nobody_knows_what_was_said_to_another(prompts, demo):
    reply, _ = say(prompts, demo, " It is 4.\n\nUser:", " It is 4.")
    mine = prompts.reply_to(after(reply), START).ids
    theirs = prompts.reply_to(after(reply), Start("another")).ids
    assert demo.tokenizer.decode(mine) == demo.tokenizer.decode(theirs)
    assert len(KeyValueStore().get("0" * 64) or "") == 0
