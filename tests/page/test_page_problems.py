"""The page reports problems of the server and of the connection."""

import pytest

from tests.page.page_server import PageServer

expect = pytest.importorskip("playwright.sync_api").expect


def test_an_error_in_the_middle_keeps_what_came(visit):
    visit.server.say("half an answ", error="out of memory")
    visit.send("Hello")
    expect(visit.page.locator(".problem")).to_contain_text("connection was lost")
    expect(visit.page.locator(".problem")).to_contain_text("out of memory")
    expect(visit.answer).to_have_text("half an answ")
    visit.server.say("a whole answer")
    visit.click("Try again")
    expect(visit.answer).to_have_text("a whole answer")
    visit.click("Previous branch")
    expect(visit.answer).to_have_text("half an answ")


def test_a_connection_that_ends_early_is_told(visit):
    visit.server.say("half an answ", cut=True)
    visit.send("Hello")
    expect(visit.page.locator(".problem")).to_contain_text("connection was lost")
    visit.server.say("er, and the rest")
    visit.click("Continue")
    expect(visit.answer).to_have_text("half an answer, and the rest")


def test_a_busy_server_is_told_and_tried_again(visit):
    visit.server.say("too many requests", status=429, headers={"Retry-After": "7"})
    visit.send("Hello")
    expect(visit.page.locator(".problem")).to_contain_text("try again in 7 s")
    visit.server.say("now")
    visit.click("Try again")
    expect(visit.answer).to_have_text("now")
    expect(visit.page.locator(".branch")).to_have_count(0)


def test_an_answer_that_never_came_is_not_told_to_the_model(visit):
    visit.server.say("too many requests", status=429)
    visit.send("Hello")
    expect(visit.page.locator(".problem")).to_be_visible()
    visit.chat("Hello?", "yes")
    assert [m["content"] for m in visit.server.asked[1]["messages"]] == ["Hello", "Hello?"]


def test_a_refusal_is_told_in_the_servers_words(visit):
    visit.server.say("temperature must be at most 10", status=400)
    visit.send("Hello")
    expect(visit.page.locator(".problem")).to_contain_text("temperature must be at most 10")


def test_a_key_is_asked_for_and_sent(visits, server):
    server.key = "secret"
    visit = visits()
    expect(visit.page.locator(".problem")).to_contain_text("requires a valid API key")
    visit.click("Enter the key")
    expect(visit.page.get_by_label("API key")).to_be_focused()
    visit.page.keyboard.type("secret")
    visit.page.keyboard.press("Tab")
    visit.page.keyboard.press("Escape")
    expect(visit.page.locator("#welcome .chip")).to_have_count(4)
    visit.chat("Hello", "welcome")
    expect(visit.answer).to_have_text("welcome")


def test_a_server_that_is_gone_is_told(visits):
    first = PageServer().start()
    visit = visits(at=first)
    expect(visit.page.locator("#welcome .chip")).to_have_count(4)
    first.stop()
    visit.send("Hello")
    expect(visit.page.locator(".problem")).to_contain_text("cannot be reached")
    second = PageServer(first.server_address[1]).start()
    visit.click("Try again")
    expect(visit.answer).to_have_text("You said: Hello")
    second.stop()
