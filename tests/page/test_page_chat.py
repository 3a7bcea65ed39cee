"""Chatting: answers, branches, edits, thoughts, scrolling."""

import re

import pytest

expect = pytest.importorskip("playwright.sync_api").expect


def test_the_first_view_names_the_model_and_suggests(visit):
    expect(visit.page.get_by_role("heading", name="demo-rwkv7")).to_be_visible()
    expect(visit.page.locator("#welcome .chip")).to_have_count(4)
    visit.click("What is 12 + 30?")
    expect(visit.answer).to_have_text("You said: What is 12 + 30?")


def test_an_answer_appears_while_it_is_written(visit):
    visit.server.say("one two three four five six seven", pause=2, delay=0.01)
    visit.send("Count")
    expect(visit.answer).to_have_text("one two")
    expect(visit.page.locator(".message.writing")).to_have_count(1)
    visit.server.go()
    expect(visit.answer).to_have_text("one two three four five six seven")
    expect(visit.page.locator(".message .stats").last).to_have_text(
        re.compile(r"^9 tokens · [\d.,]+ tokens/s$")
    )
    assert visit.server.asked[0]["messages"] == [{"role": "user", "content": "Count"}]
    assert visit.complaints == []


def test_characters_may_be_cut_anywhere(visit):
    words = "héllo 世界 🐦‍⬛ ende"
    visit.chat("Hi", words, split=1)
    expect(visit.answer).to_have_text(words)


STREAM = (
    ": hello\ndata: a ü 世 🐦\r\n\r\ndata:b\rdata: c\r\rid: 1\n\ndata: [DONE]\n\ndata: never ended"
)
READ_STREAM = """(async () => {
    const bytes = new TextEncoder().encode(argument);
    const found = [];
    for (let size = 1; size <= bytes.length; size += 1) {
        const chunks = [];
        for (let at = 0; at < bytes.length; at += size) chunks.push(bytes.slice(at, at + size));
        const data = [];
        const body = new ReadableStream({
            start(stream) {
                chunks.forEach((chunk) => stream.enqueue(chunk));
                stream.close();
            },
        });
        for await (const one of m.events(body)) data.push(one);
        found.push(JSON.stringify(data));
    }
    return [...new Set(found)].map((one) => JSON.parse(one));
})()"""


def test_events_are_the_same_however_the_stream_is_cut(visit):
    wanted = [["a ü 世 🐦", "b\nc", "[DONE]"]]
    assert visit.module("stream.js", "await " + READ_STREAM, STREAM) == wanted


def test_stop_keeps_what_was_written(visit):
    visit.server.say("word" * 200, pause=2, delay=0.01)
    visit.send("Go")
    expect(visit.answer).to_have_text("wordword")
    visit.click("Stop")
    expect(visit.page.locator(".note")).to_have_text("Stopped.")
    visit.server.go()
    visit.chat("And then?")
    assert visit.said()[1] == "wordword"
    assert visit.server.gone == 1
    assert visit.server.asked[1]["messages"][1]["content"] == "wordword"


def test_escape_stops(visit):
    visit.server.say("word" * 200, pause=2)
    visit.send("Go")
    expect(visit.answer).to_have_text("wordword")
    visit.page.keyboard.press("Escape")
    expect(visit.page.locator(".note")).to_have_text("Stopped.")


def test_answering_again_makes_a_branch(visit):
    visit.chat("Hello", "first")
    visit.server.say("second")
    visit.click("Answer again")
    expect(visit.answer).to_have_text("second")
    expect(visit.page.locator(".branch")).to_have_text("2/2")
    visit.click("Previous branch")
    expect(visit.answer).to_have_text("first")
    expect(visit.page.locator(".branch")).to_have_text("1/2")
    visit.click("Next branch")
    expect(visit.answer).to_have_text("second")
    assert visit.server.asked[0]["messages"] == visit.server.asked[1]["messages"]


def test_the_same_answer_again_is_explained(visit):
    visit.chat("Hello", "always this")
    visit.server.say("always this")
    visit.click("Answer again")
    expect(visit.page.locator(".notice p")).to_contain_text("At temperature 0")


def test_editing_a_message_makes_a_branch_with_an_answer_of_its_own(visit):
    visit.chat("Hello", "first")
    visit.page.locator(".message.user").hover()
    visit.click("Edit")
    visit.page.get_by_label("Edited text").fill("Good morning")
    visit.page.keyboard.press("Enter")
    expect(visit.answer).to_have_text("You said: Good morning")
    visit.click("Previous branch")
    assert visit.said() == ["Hello", "first"]


def test_editing_an_answer_asks_nobody(visit):
    visit.chat("Hello", "first")
    visit.click("Edit", last=True)
    visit.page.get_by_label("Edited text").fill("My own words")
    visit.click("Save")
    expect(visit.answer).to_have_text("My own words")
    expect(visit.page.locator(".branch")).to_have_text("2/2")
    assert len(visit.server.asked) == 1
    visit.chat("Next")
    assert visit.server.asked[1]["messages"][1]["content"] == "My own words"


def test_an_answer_that_was_cut_off_goes_on(visit):
    visit.chat("Hello", "the first half", finish="length")
    expect(visit.page.locator(".note")).to_contain_text("maximum length")
    visit.server.say(" and the second")
    visit.click("Continue")
    expect(visit.answer).to_have_text("the first half and the second")
    expected = [("user", "Hello"), ("assistant", "the first half")]
    assert [(m["role"], m["content"]) for m in visit.server.asked[1]["messages"]] == expected
    expect(visit.page.locator(".message .stats").last).to_contain_text("8 tokens")


def test_thoughts_are_folded(visit):
    visit.chat("Hello", "The answer", reasoning="Let me think about it", delay=0.04)
    summary = visit.page.locator(".thinking summary")
    expect(summary).to_have_text(re.compile(r"^Thought for 0\.\d s$"))
    expect(visit.page.locator(".thoughts")).to_be_hidden()
    summary.click()
    expect(visit.page.locator(".thoughts")).to_have_text("Let me think about it")


def test_reading_further_up_is_not_disturbed(visits):
    visit = visits(viewport={"width": 800, "height": 500})
    visit.chat("Hello", "line\n\n" * 60)
    scroller = visit.page.locator("#scroller")
    at_end = "e => e.scrollHeight - e.scrollTop - e.clientHeight < 3"
    assert scroller.evaluate(at_end)
    visit.server.say("more\n\n" * 60, pause=40)
    visit.send("Go on")
    expect(visit.answer).to_contain_text("more")
    assert scroller.evaluate(at_end)
    scroller.hover()
    visit.page.mouse.wheel(0, -400)
    expect(visit.page.get_by_label("To the newest message")).to_be_visible()
    visit.page.wait_for_timeout(200)
    before = scroller.evaluate("e => e.scrollTop")
    visit.server.go()
    expect(visit.page.locator(".message.writing")).to_have_count(0)
    assert scroller.evaluate("e => e.scrollTop") == before
    visit.click("To the newest message")
    assert scroller.evaluate(at_end)
