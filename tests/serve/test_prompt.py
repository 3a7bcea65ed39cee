"""What a conversation is read as: never anything that was not said in it."""

import pytest

from wkv.batching import TextEvent
from wkv.prompting.template import Message, Template
from wkv.serve.build_constraints import ReplyFormat
from wkv.serve.key_value_store import KeyValueStore
from wkv.serve.parse_reply import ReplyParser
from wkv.serve.render_prompt import ConversationStart, PromptRenderer, ReplyMemory

ASK = Message("user", "How much is 2 + 2?")
START = ConversationStart("somebody")


@pytest.fixture
def renderer(demo):
    return PromptRenderer(demo, Template(), ReplyMemory(KeyValueStore(), demo.identity))


def say(renderer, demo, drawn, told=None, assistant_prefix="", form=None, messages=(ASK,)):
    """Let a reply of drawn text be made, of which `told` were given out; as the server does."""
    prompt = renderer.render_prompt(messages, START, assistant_prefix=assistant_prefix)
    reply = ReplyParser(assistant_prefix, reply_format=form or ReplyFormat())
    ids = demo.tokenizer.encode(drawn)
    reply.push(TextEvent(0, drawn if told is None else told, ids[0]))
    reply.token_ids[:] = ids
    reply.finish("stop")
    if reply.is_whole:
        renderer.remember(START, prompt, reply.message, ids, reply.characters)
    return reply, prompt


def text(renderer, demo, messages):
    return demo.tokenizer.decode(renderer.render_prompt(messages, START).ids)


def after(reply, *messages):
    return [ASK, reply.message, *(messages or (Message("user", "And 3 + 3?"),))]


@pytest.mark.parametrize("ahead", ["", "\n", "\n\n", "\n\nUs", "\n\nUser:"])
def test_a_reply_is_read_once_whatever_was_drawn_beyond_it(renderer, demo, ahead):
    reply, prompt = say(renderer, demo, f" It is 4.{ahead}", " It is 4.")
    assert reply.content == "It is 4."
    whole = "User: How much is 2 + 2?\n\nAssistant: It is 4.\n\nUser: And 3 + 3?\n\nAssistant:"
    assert text(renderer, demo, after(reply)) == whole
    ids = renderer.render_prompt(after(reply), START).ids
    drawn = demo.tokenizer.encode(f" It is 4.{ahead}")
    assert ids[: len(prompt.ids) + len(drawn)] == (*prompt.ids, *drawn)


def test_newlines_at_the_end_of_a_reply_are_read_once(renderer, demo):
    for newlines in range(5):
        reply, _ = say(renderer, demo, " Hello" + "\n" * newlines)
        assert "Hello\n\nUser: And" in text(renderer, demo, after(reply))


def test_thoughts_that_hold_the_answer_are_no_part_of_it(renderer, demo):
    drawn = "> 2 + 2 is 4, so 4. </think>\n4\n\nUser:"
    reply, _ = say(
        renderer, demo, drawn, drawn.removesuffix("\n\nUser:"), assistant_prefix=" <think"
    )
    assert (reply.reasoning, reply.content) == ("2 + 2 is 4, so 4.", "4")
    read = text(renderer, demo, after(reply))
    assert read.count("User:") == 2
    assert "</think>\n4\n\nUser: And 3 + 3?" in read
    without = Message("assistant", reply.content)  # as most clients send it back
    assert "think" not in text(renderer, demo, after(ReplyParser("", content="4")))
    assert text(renderer, demo, [ASK, without, ASK]).count("User:") == 2


def test_what_stands_behind_a_stop_string_is_forgotten(renderer, demo):
    reply, _ = say(renderer, demo, " Paris is the capital. SECRET", " Paris is the")
    assert "SECRET" not in text(renderer, demo, after(reply))
    assert "capital" not in text(renderer, demo, after(reply))


def test_calls_that_were_not_told_are_forgotten(renderer, demo):
    form = ReplyFormat(tool_names=("f",))
    drawn = '{"name": "f", "arguments": {"x":1}}\nSo: {"name": "f", "arguments": {"x":2}}'
    reply, _ = say(renderer, demo, drawn, form=form)
    assert len(reply.calls) == 1
    assert '"x":2' not in text(renderer, demo, after(reply))
    drawn = '{"name":"f",  "arguments": {"x":1}}'  # in other words than ours
    reply, _ = say(renderer, demo, f"{drawn}\n\nUser:", drawn, form=form)
    read = text(renderer, demo, after(reply))
    assert drawn in read
    assert read.count("User:") == 2


def test_a_name_that_was_read_is_that_of_who_speaks(renderer, demo):
    reply, _ = say(renderer, demo, " It is 4.\n\nUser:", " It is 4.")
    for role, name in (("system", "System"), ("assistant", "Assistant")):
        last = Message("user", "Bye")
        read = text(renderer, demo, after(reply, Message(role, "Be kind."), last))
        assert f"It is 4.\n\n{name}: Be kind.\n\nUser: Bye" in read
        assert read.count("User:") == 2


def test_nobody_knows_what_was_said_to_another(renderer, demo):
    reply, _ = say(renderer, demo, " It is 4.\n\nUser:", " It is 4.")
    mine = renderer.render_prompt(after(reply), START).ids
    theirs = renderer.render_prompt(after(reply), ConversationStart("another")).ids
    assert demo.tokenizer.decode(mine) == demo.tokenizer.decode(theirs)
    assert len(KeyValueStore().get("0" * 64) or "") == 0
