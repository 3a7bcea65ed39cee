"""Parameters, model states, raw text."""

import pytest

expect = pytest.importorskip("playwright.sync_api").expect


def test_parameters_are_sent_only_where_they_are_set(visit):
    visit.click("Parameters")
    visit.page.get_by_label("Temperature").fill("0.7")
    visit.page.get_by_label("Seed").fill("42")
    visit.page.get_by_label("System prompt").fill("Be brief")
    visit.page.get_by_label("Stop strings").fill("\\n\\nUser\nEND")
    visit.page.get_by_label("Thinking").select_option("high")
    visit.page.get_by_label("Top p").fill("1.5")
    expect(visit.page.locator(".field .error").nth(1)).to_have_text("Enter a number from 0 to 1.")
    visit.page.keyboard.press("Escape")
    visit.chat("Hello")
    body = visit.server.asked[0]
    assert body.pop("messages")[0] == {"role": "system", "content": "Be brief"}
    assert body == {
        "model": "demo-rwkv7",
        "temperature": 0.7,
        "seed": 42,
        "stop": ["\n\nUser", "END"],
        "reasoning_effort": "high",
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_presets_fill_the_fields_and_reset_empties_them(visit):
    visit.click("Parameters")
    visit.click("creative")
    expect(visit.page.get_by_label("Temperature")).to_have_value("1.2")
    expect(visit.page.get_by_role("button", name="creative")).to_have_attribute(
        "aria-pressed", "true"
    )
    visit.page.reload()
    visit.click("Parameters")
    expect(visit.page.get_by_label("Temperature")).to_have_value("1.2")
    visit.click("Reset to the defaults")
    expect(visit.page.get_by_label("Temperature")).to_have_value("")
    expect(visit.page.get_by_label("Temperature")).to_have_attribute("placeholder", "0")


def test_states_are_saved_loaded_forked_moved_and_deleted(visit, tmp_path):
    visit.chat("Remember this", "I do")
    visit.click("Model states")
    visit.click("Save this conversation")
    expect(visit.page.locator(".news")).to_have_text("Model state saved: 4 tokens.")
    with visit.page.expect_download() as waiting:
        visit.click("Download Remember this")
    assert waiting.value.suggested_filename == "Remember this.safetensors"
    waiting.value.save_as(tmp_path / "mine.safetensors")
    visit.page.locator("#state-file").set_input_files(tmp_path / "mine.safetensors")
    expect(visit.page.locator(".state-name")).to_have_text(["mine", "Remember this"])
    visit.click("Delete mine")
    expect(visit.page.locator(".state-name")).to_have_text(["Remember this"])
    visit.click("Load Remember this: the next chat continues from it")
    expect(visit.page.locator("#from-state")).to_contain_text("“Remember this”, 4 tokens")
    visit.chat("What was it?", "one")
    visit.click("Fork Remember this: start another conversation from the same state")
    expect(visit.page.locator(".message")).to_have_count(0)
    visit.chat("Something else", "two")
    for body in visit.server.asked[1:]:
        assert body["state"] == "state-0001"
        assert len(body["messages"]) == 1
    expect(visit.page.locator(".row")).to_have_count(3)


def test_raw_text_goes_on_and_is_taken_back(visit):
    visit.click("New raw text")
    area = visit.page.get_by_label("Raw text")
    area.fill("Once upon a time")
    visit.server.say(" there was a bird", delay=0.02)
    visit.click("Continue the text")
    expect(area).to_have_value("Once upon a time there was a bird")
    assert visit.server.asked[0]["prompt"] == "Once upon a time"
    expect(visit.page.locator("#raw-stats")).to_contain_text("tokens")
    visit.page.reload()
    expect(area).to_have_value("Once upon a time there was a bird")
    area.press("Control+Enter")
    expect(area).to_have_value("Once upon a time there was a bird and so on.")
    visit.click("Undo continuation")
    expect(area).to_have_value("Once upon a time there was a bird")


def test_a_states_name_is_known_to_every_browser(visits):
    visit = visits()
    visit.chat("记住 this: ü", "I do")
    visit.click("Model states")
    visit.click("Save this conversation")
    expect(visit.page.locator(".news")).to_be_visible()
    visit.click("Save this conversation")
    expect(visit.page.locator(".states li")).to_have_count(2)
    other = visits(locale="en-GB")
    other.click("Model states")
    expect(other.page.locator(".state-name")).to_have_text(
        ["记住 this: ü (0002)", "记住 this: ü (0001)"]
    )


@pytest.mark.parametrize(
    ("name", "typed", "sent"),
    [
        ("Seed", "-1", {}),
        ("Seed", "\N{MINUS SIGN}1", {}),
        ("Seed", "", {}),
        ("Seed", "0", {"seed": 0}),
        ("Top k", "-1", {"top_k": 0}),
        ("Maximum tokens", "-1", {"max_tokens": 1_000_000}),
        ("Presence penalty", "-1", {"presence_penalty": -1}),
    ],
)
def test_minus_one_means_what_it_means_elsewhere(visit, name, typed, sent):
    visit.page.evaluate("localStorage.clear()")
    visit.page.reload()
    visit.click("Parameters")
    visit.page.get_by_label(name, exact=True).fill(typed)
    expect(visit.page.locator(".field .error:visible")).to_have_count(0)
    visit.page.keyboard.press("Escape")
    visit.chat("Hello")
    body = visit.server.asked[0]
    usual = {"messages", "model", "stream", "stream_options"}
    assert {key: value for key, value in body.items() if key not in usual} == sent
