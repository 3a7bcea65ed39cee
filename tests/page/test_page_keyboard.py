"""Focus, keyboard, screen readers, notices, and what is pasted."""

import pytest

expect = pytest.importorskip("playwright.sync_api").expect


PASTE = """([kind, place, name, words]) => {
    const data = new DataTransfer();
    if (name) data.items.add(new File(["x"], name, { type: "image/png" }));
    if (words) data.setData("text/plain", words);
    const more = { bubbles: true, cancelable: true, clipboardData: data, dataTransfer: data };
    const make = kind === "paste" ? ClipboardEvent : DragEvent;
    return document.querySelector(place).dispatchEvent(new make(kind, more));
}"""


@pytest.mark.parametrize("place", ["#input", "#raw-text", "#scroller", ".sidebar"])
def test_pictures_and_files_are_refused_with_a_word(visit, place):
    if place == "#raw-text":
        visit.click("New raw text")
    notice = visit.page.locator(".notice")
    visit.page.evaluate(PASTE, ["paste", place, "", "words"])
    visit.page.evaluate(PASTE, ["paste", place, "a.png", "words"])
    expect(notice).to_have_count(0)
    visit.page.evaluate(PASTE, ["paste", place, "a.png", ""])
    expect(notice).to_contain_text("reads text only")
    notice.get_by_role("button", name="Close").click()
    expect(notice).to_have_count(0)
    assert visit.page.evaluate(PASTE, ["dragover", place, "", "words"])
    assert not visit.page.evaluate(PASTE, ["dragover", place, "a.png", ""])
    assert not visit.page.evaluate(PASTE, ["drop", place, "a.png", ""])
    expect(notice).to_contain_text("reads text only")


def test_a_notice_is_seen_while_a_dialog_is_open_and_after(visit):
    visit.click("Parameters")
    visit.page.evaluate(PASTE, ["paste", "[name=system]", "a.png", ""])
    notice = visit.page.locator("#settings .notice")
    expect(notice).to_contain_text("reads text only")
    visit.click("chat")
    expect(notice).to_be_visible()
    notice.get_by_role("button", name="Close").click()
    expect(visit.page.locator("#settings :focus")).to_have_count(1)
    visit.page.evaluate(PASTE, ["paste", "[name=system]", "a.png", ""])
    visit.page.keyboard.press("Escape")
    expect(visit.page.locator("#stage > .notices .notice")).to_be_visible()


COVERED = """() => {
    const notice = document.querySelector(".notice").getBoundingClientRect();
    const others = document.querySelectorAll("#scroller, #composer, #raw-text, .bar *");
    return [...others].filter((e) => e.checkVisibility()).filter((e) => {
        const box = e.getBoundingClientRect();
        return box.top < notice.bottom && box.bottom > notice.top
            && box.left < notice.right && box.right > notice.left;
    }).map((e) => e.id);
}"""


@pytest.mark.parametrize("width", [1280, 390])
def test_notices_come_one_at_a_time_and_cover_nothing(visits, width):
    visit = visits(viewport={"width": width, "height": 800})
    for words in ("one", "two " * 30, "three"):
        visit.page.evaluate("document.querySelector('#new-chat').click()")
        visit.chat(words)
    for count in (3, 2, 1):
        expect(visit.page.locator(".row")).to_have_count(count)
        delete = "document.querySelector('.row [data-focus^=bin]').click()"
        visit.page.evaluate(delete)
        expect(visit.page.locator(".notice")).to_have_count(1)
        assert visit.page.evaluate(COVERED) == []
    expect(visit.page.locator(".notice")).to_contain_text("one")
    visit.page.get_by_role("button", name="Undo", exact=True).press("Enter")
    expect(visit.page.get_by_label("Message", exact=True)).to_be_focused()
    expect(visit.answer).to_have_text("You said: one")


@pytest.mark.parametrize("has_touch", [False, True])
def test_the_phones_drawer_is_used_by_keyboard(visits, has_touch):
    visit = visits(viewport={"width": 390, "height": 844}, has_touch=has_touch)
    page, drawer = visit.page, visit.page.locator("#sidebar")
    visit.chat("Hello", "first")
    visit.server.say("word" * 200, pause=2)
    visit.send("Go")
    expect(visit.answer).to_have_text("wordword")
    page.locator("#open-menu").focus()
    page.keyboard.press("Enter")
    expect(drawer.get_by_role("button", name="Close the list")).to_be_focused()
    for _ in range(12):
        page.keyboard.press("Tab")
        assert page.evaluate("!document.activeElement.closest('#stage, .skip')")
    page.get_by_label("Search conversations").fill("hello")
    page.keyboard.press("Escape")
    expect(drawer).to_be_visible()
    page.keyboard.press("Escape")
    expect(drawer).to_be_hidden()
    expect(page.locator("#open-menu")).to_be_focused()
    expect(page.locator(".message.writing")).to_have_count(1)  # Escape closed the drawer only
    page.keyboard.press("Escape")
    expect(page.locator(".note")).to_have_text("Stopped.")
    visit.server.go()


def test_the_page_behind_the_drawer_does_not_move(visits):
    visit = visits(viewport={"width": 390, "height": 844})
    visit.chat("Hello", "first")
    composer = visit.page.locator("#composer")
    before = composer.bounding_box()
    visit.click("Open the list of conversations")
    expect(visit.page.locator("#sidebar")).to_be_visible()
    assert composer.bounding_box() == before


def test_a_conversation_deleted_in_the_drawer_can_be_brought_back_there(visits):
    visit = visits(viewport={"width": 390, "height": 844})
    visit.chat("Hello", "first")
    visit.click("Open the list of conversations")
    visit.click("Delete: Hello")
    expect(visit.page.locator("#sidebar .notice")).to_contain_text("Deleted “Hello”.")
    visit.page.get_by_role("button", name="Undo", exact=True).press("Enter")
    expect(visit.page.locator(".row .open")).to_be_focused()
    visit.page.keyboard.press("Escape")
    expect(visit.answer).to_have_text("first")


def test_a_dialog_gives_the_focus_back(visits, server):
    server.key = "secret"
    visit = visits()
    for name in ("Parameters", "Model states"):
        opener = visit.page.get_by_role("button", name=name, exact=True)
        opener.press("Enter")
        expect(visit.page.locator("dialog[open] :focus")).to_have_count(1)
        visit.page.keyboard.press("Escape")
        expect(opener).to_be_focused()
    visit.click("Model states")
    states = visit.page.locator("#states")
    states.get_by_role("button", name="Try again").press("Enter")
    expect(states.locator(".problem")).to_be_visible()
    expect(states.locator(":focus")).to_have_count(1)
    states.get_by_role("button", name="Enter the key").press("Enter")
    expect(visit.page.get_by_label("API key")).to_be_focused()
    visit.page.keyboard.press("Escape")
    expect(visit.page.locator("#open-states")).to_be_focused()


def test_escape_leaves_the_editor_from_each_of_its_parts(visit):
    visit.chat("Hello", "first")
    for part in ("Edited text", "Save", "Cancel"):
        visit.click("Edit", last=True)
        editor = visit.page.locator(".editor")
        field = editor.get_by_label(part) if part == "Edited text" else editor.get_by_text(part)
        field.press("Escape")
        expect(editor).to_have_count(0)
        expect(visit.page.locator("[data-action=edit]").last).to_be_focused()


def test_the_keyboard_alone_does_it_all(visit):
    page = visit.page
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    expect(visit.answer).to_have_text("You said: one\ntwo", use_inner_text=True)
    assert visit.server.asked[0]["messages"][0]["content"] == "one\ntwo"
    page.keyboard.press("Shift+Tab")
    expect(page.locator("[data-action=stats]").last).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_text("96 of 120 prompt tokens from the cache")).to_be_visible()
    page.keyboard.press("Shift+Tab")
    expect(page.locator("[data-action=again]")).to_be_focused()
    visit.server.say("another")
    page.keyboard.press("Enter")
    expect(visit.answer).to_have_text("another")
    page.locator("[data-action=left]").focus()
    page.keyboard.press("Enter")
    expect(visit.answer).to_contain_text("You said")
    expect(page.locator("[data-action=left]")).to_be_focused()
    page.keyboard.press("ArrowDown")
    for button in page.get_by_role("button").all():
        assert button.evaluate("b => b.getAttribute('aria-label') || b.innerText.trim()")


def test_enter_does_not_send_while_an_input_method_composes(visit):
    visit.page.get_by_label("Message", exact=True).fill("ni")
    press = """e => e.dispatchEvent(new KeyboardEvent("keydown",
        { key: "Enter", isComposing: true, bubbles: true, cancelable: true }))"""
    visit.page.locator("#input").evaluate(press)
    visit.page.wait_for_timeout(50)
    assert visit.server.asked == []


def test_answers_are_read_out_by_paragraph(visit):
    visit.chat("Hello", "First part.\n\nSecond part.")
    expect(visit.page.get_by_role("log").locator("p")).to_have_text(
        ["Reading your message", "First part.", "Second part.", "The answer is complete."]
    )
