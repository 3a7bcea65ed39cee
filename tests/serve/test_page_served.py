"""The chat page in a real browser, on the real server."""

import shutil

import pytest

sync_api = pytest.importorskip("playwright.sync_api")

CHROMIUM = next(
    filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@pytest.fixture
def page(served):
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(locale="en-US")
        page.complaints = []
        page.on(
            "console", lambda m: m.type in ("error", "warning") and page.complaints.append(m.text)
        )
        page.goto(served[0])
        yield page
        browser.close()


def say(page, text):
    box = page.get_by_placeholder("Write a message")
    box.fill(text)
    box.press("Enter")


def answer(page):
    return page.locator(".message.assistant .body").last


def test_a_conversation_with_the_built_in_model(page, served):
    see = sync_api.expect
    see(page.get_by_text("RWKV-7")).to_be_visible()
    say(page, "What is 27 + 48?")
    see(answer(page)).to_have_text("27 + 48 = 75")
    page.get_by_role("button", name="Answer again").click()
    see(page.get_by_text("2/2")).to_be_visible()
    see(answer(page)).to_have_text("27 + 48 = 75")
    page.locator(".stats").last.click()
    see(page.get_by_text("from the cache").last).to_be_visible()
    say(page, "Who are you?")
    see(answer(page)).to_contain_text("wkv")
    page.reload()
    see(answer(page)).to_contain_text("wkv")
    page.get_by_role("button", name="Model states").click()
    page.get_by_role("button", name="Save this conversation").click()
    see(page.locator(".news")).to_contain_text("Model state saved")
    _, service = served
    assert [state.name for state in service.states.list("")] == ["What is 27 + 48?"]
    assert page.complaints == []
