"""Sizes, languages, colors, movement."""

import re

import pytest

expect = pytest.importorskip("playwright.sync_api").expect


WIDE = (
    "word" * 60
    + "\n\n```\n"
    + "code " * 80
    + "\n```\n\n| a | b | c |\n|---|---|---|\n"
    + ("| " + "cell" * 10 + " | x | y |\n")
)


def test_a_phone_scrolls_only_downwards(visits):
    visit = visits(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    fits = "() => document.documentElement.scrollWidth <= 390 && innerWidth === 390"
    visit.chat("wide" * 50, WIDE)
    assert visit.page.evaluate(fits)
    assert visit.page.locator("#scroller").evaluate("e => e.scrollWidth <= e.clientWidth")
    expect(visit.page.locator("#sidebar")).to_be_hidden()
    visit.click("Open the list of conversations")
    expect(visit.page.locator("#sidebar")).to_be_visible()
    visit.page.locator("#sidebar").get_by_role("button", name="New chat", exact=True).click()
    expect(visit.page.locator("#sidebar")).to_be_hidden()
    visit.click("Parameters")
    assert visit.page.evaluate(fits)
    assert visit.page.locator(".sheet-body").first.evaluate("e => e.scrollWidth <= e.clientWidth")


def test_chinese_is_spoken_to_those_who_ask_and_can_be_switched(visits):
    visit = visits(locale="zh-CN")
    expect(visit.page.get_by_role("button", name="新建对话")).to_be_visible()
    assert visit.page.locator("html").get_attribute("lang") == "zh-CN"
    visit.page.get_by_role("button", name="Switch to English").click()
    expect(visit.page.get_by_role("button", name="New chat", exact=True)).to_be_visible()
    visit.chat("Hello", "first")
    visit.click("切换到中文")
    expect(visit.page.get_by_role("button", name="重新回答")).to_be_visible()
    visit.page.reload()
    expect(visit.page.get_by_role("button", name="重新回答")).to_be_visible()


def test_every_language_has_every_text(visit):
    texts = {name: visit.module(f"{name}.js", "m.texts") for name in ("english", "chinese")}
    assert list(texts["chinese"]) == list(texts["english"])
    for name, words in texts["english"].items():
        fields = re.findall(r"\{\w+\}", words)
        assert sorted(re.findall(r"\{\w+\}", texts["chinese"][name])) == sorted(fields), name


CONTRAST = """() => {
    const parse = (color) => {
        const canvas = document.createElement("canvas").getContext("2d");
        canvas.fillStyle = color;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const light = (color) => {
        const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
        const [r, g, b] = color.map((c) => linear(c / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (node) => {
        for (; node; node = node.parentElement) {
            const color = parse(getComputedStyle(node).backgroundColor);
            if (color[3] === 255) return color;
        }
    };
    const poor = [];
    for (const node of document.querySelectorAll("body *")) {
        const isText = (child) => child.nodeType === 3 && child.data.trim();
        if (![...node.childNodes].some(isText) || !node.checkVisibility()) continue;
        if (node.closest("[aria-disabled=true], :disabled")) continue;
        const pair = [light(parse(getComputedStyle(node).color)), light(behind(node))];
        const contrast = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
        if (contrast < 4.5) poor.push([node.className, node.textContent.slice(0, 30), contrast]);
    }
    return poor;
}"""


COLOURFUL = "# T\n\n> q [l](https://a.b/c)\n\n```python\nif 1: 'a' # b\n```\n| a |\n|---|\n| 1 |"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_word_stands_out_from_its_ground(visits, scheme):
    visit = visits(color_scheme=scheme)
    page = visit.page
    assert page.evaluate(CONTRAST) == []
    visit.chat("Code", COLOURFUL, reasoning="hm")
    page.locator(".thinking summary").click()
    visit.server.say("half", error="broken")
    visit.send("Fail")
    expect(page.locator(".problem")).to_be_visible()
    page.locator(".stats").last.click()
    page.evaluate("document.querySelector('.row [data-focus^=bin]').click()")
    expect(page.locator(".notice")).to_be_visible()
    assert page.evaluate(CONTRAST) == []
    visit.click("Parameters")
    visit.click("chat")
    assert page.evaluate(CONTRAST) == []


def test_the_theme_follows_the_system_until_it_is_chosen(visits):
    visit = visits(color_scheme="dark")
    ground = "() => getComputedStyle(document.body).backgroundColor"
    dark = visit.page.evaluate(ground)
    visit.click("Colors: system")
    light = visit.page.evaluate(ground)
    assert light != dark
    visit.page.reload()
    assert visit.page.evaluate(ground) == light
    visit.click("Colors: light")
    assert visit.page.evaluate(ground) == dark
    expect(visit.page.get_by_role("button", name="Colors: dark")).to_be_visible()


def test_little_moves_for_those_who_want_it_so(visits):
    visit = visits(reduced_motion="reduce")
    visit.server.say("word" * 40, pause=2, reasoning="hmmm")
    visit.send("Hello")
    expect(visit.page.locator(".message.writing")).to_be_visible()
    assert visit.page.evaluate("document.getAnimations().length") == 0
