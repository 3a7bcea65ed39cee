"""The browser stores conversations, and exports and imports them."""

import json

import pytest

expect = pytest.importorskip("playwright.sync_api").expect


def test_a_reload_keeps_everything(visit):
    visit.chat("Hello", "first")
    visit.server.say("second")
    visit.click("Answer again")
    expect(visit.answer).to_have_text("second")
    visit.page.get_by_label("Message", exact=True).fill("a draft")
    visit.page.reload()
    expect(visit.answer).to_have_text("second")
    expect(visit.page.locator(".branch")).to_have_text("2/2")
    expect(visit.page.get_by_label("Message", exact=True)).to_have_value("a draft")
    visit.click("Previous branch")
    expect(visit.answer).to_have_text("first")


def test_a_reload_in_the_middle_keeps_what_was_written(visit):
    visit.server.say("word" * 200, pause=2)
    visit.send("Go")
    expect(visit.answer).to_have_text("wordword")
    visit.page.reload()
    expect(visit.answer).to_have_text("wordword")
    expect(visit.page.locator(".note")).to_have_text("Stopped.")


def test_conversations_are_listed_found_renamed_and_deleted(visit):
    rows = visit.page.locator(".row .open")
    visit.chat("About cats", "They purr")
    visit.click("New chat")
    visit.chat("About dogs", "They bark")
    expect(rows).to_have_text(["About dogs", "About cats"])
    visit.page.get_by_label("Search conversations").fill("PURR")
    expect(rows).to_have_text(["About cats"])
    visit.page.get_by_label("Search conversations").fill("")
    rows.last.click()
    expect(visit.answer).to_have_text("They purr")
    visit.page.get_by_role("button", name="Rename: About cats").click()
    visit.page.get_by_label("Title of the conversation").fill("Felines")
    visit.page.keyboard.press("Enter")
    expect(rows).to_have_text(["About dogs", "Felines"])
    visit.page.get_by_role("button", name="Delete: Felines").click()
    expect(rows).to_have_text(["About dogs"])
    visit.click("Undo")
    expect(rows).to_have_text(["About dogs", "Felines"])
    expect(visit.answer).to_have_text("They purr")


def test_what_is_exported_can_be_imported(visit, tmp_path):
    visit.chat("Hello", "first", reasoning="hm")
    visit.server.say("second")
    visit.click("Answer again")
    expect(visit.answer).to_have_text("second")
    with visit.page.expect_download() as waiting:
        visit.click("Export all")
    waiting.value.save_as(tmp_path / "all.json")
    kept = json.loads((tmp_path / "all.json").read_text())["conversations"]

    chooser = visit.page.locator("#import-file")
    chooser.set_input_files(tmp_path / "all.json")
    expect(visit.page.locator(".notice p")).to_have_text("Imported: 0. Already present: 1.")
    visit.page.evaluate("localStorage.clear()")
    visit.page.reload()
    expect(visit.page.locator(".row")).to_have_count(0)
    chooser.set_input_files(tmp_path / "all.json")
    expect(visit.page.locator(".notice p")).to_have_text("Imported: 1. Already present: 0.")
    visit.page.locator(".row .open").click()
    expect(visit.answer).to_have_text("second")
    visit.click("Previous branch")
    expect(visit.answer).to_have_text("first")
    assert len(kept) == 1
    assert len(kept[0]["messages"]) == 4


BAD_FILES = {
    "no json at all": "the file is not valid JSON",
    '{"some": "thing"}': "does not contain conversations",
    '{"format": "wkv-conversations", "version": 9, "conversations": []}': "has version 9",
    '{"format": "wkv-conversations", "version": 1, "conversations": [{"id": "a"}]}': "is damaged",
}


def test_a_bad_file_is_refused_and_nothing_is_lost(visit, tmp_path):
    visit.chat("Hello", "first")
    for number, (content, words) in enumerate(BAD_FILES.items()):
        path = tmp_path / f"{number}.json"
        path.write_text(content)
        visit.page.locator("#import-file").set_input_files(path)
        expect(visit.page.locator(".notice p").last).to_contain_text(words)
    expect(visit.page.locator(".row")).to_have_count(1)
    expect(visit.answer).to_have_text("first")


DAMAGES = [
    "c.messages.root.children = ['nobody']",
    "c.messages.root.children = ['root']",
    "c.messages[first].children = [first]",
    "c.messages[first].role = 'wizard'",
    "c.messages.orphan = {...c.messages[first], id: 'orphan', children: []}",
    "c.id = '../x'",
    "delete c.messages.root",
]
READ_DAMAGED = """async () => {
    const { add, newConversation } = await import("/page/conversation.js");
    const { fromFile, toFile } = await import("/page/exchange.js");
    const c = newConversation();
    const first = add(c, "root", "user", "hello").id;
    if (fromFile(toFile([c]))[0].messages[first].text !== "hello") return "not read when whole";
    %s;
    try {
        fromFile(toFile([c]));
        return "read";
    } catch (error) {
        return error.reason;
    }
}"""


def test_a_damaged_conversation_is_refused(visit):
    reasons = {damage: visit.page.evaluate(READ_DAMAGED % damage) for damage in DAMAGES}
    assert reasons == dict.fromkeys(DAMAGES, "import_damaged")


def test_another_tab_sees_what_was_said(visits):
    one, other = visits(), visits()
    one.chat("Hello", "first")
    expect(other.page.locator(".row .open")).to_have_text(["Hello"])
    other.page.locator(".row .open").click()
    expect(other.answer).to_have_text("first")
    other.chat("And?", "second")
    expect(one.answer).to_have_text("second")


def test_full_storage_is_told_and_the_chat_goes_on(visit):
    visit.page.evaluate("void (Storage.prototype.setItem = () => { throw new Error('full') })")
    visit.chat("Hello", "first")
    expect(visit.page.locator(".notice p")).to_contain_text("The browser cannot save more")
    visit.chat("Again", "second")
    assert visit.said() == ["Hello", "first", "Again", "second"]
