"""The chat page in a real browser, against answers that are laid out beforehand."""

import json
import re
import shutil

import pytest

from tests.serve.page_server import PageServer

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect

CHROMIUM = next(
    filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

PATIENCE = 15_000  # milliseconds, on a machine that does other things as well
EMPTY_AT_FIRST = """if (!sessionStorage.getItem("begun")) {
    localStorage.clear();
    sessionStorage.setItem("begun", "yes");
}"""


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        expect.set_options(timeout=PATIENCE)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def english(browser):
    """A browser's profile that most tests share, so that the page's files are fetched once."""
    context = browser.new_context(locale="en-US")
    context.add_init_script(EMPTY_AT_FIRST)
    yield context
    context.close()


@pytest.fixture(scope="module")
def running_server():
    server = PageServer().start()
    yield server
    server.stop()


@pytest.fixture
def server(running_server):
    running_server.reset()
    return running_server


class Visit:
    """A browser's window on the page, with what its console and its network did."""

    def __init__(self, context, server):
        self.server = server
        self.page = context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.complaints = []
        self.requests = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(server.url)

    def _hear(self, message):
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    @property
    def answer(self):
        """The body of the last answer."""
        return self.page.locator(".message.assistant .body").last

    def send(self, words):
        self.page.get_by_label("Message", exact=True).fill(words)
        self.page.keyboard.press("Enter")

    def chat(self, words, answer=None, **more):
        """Send words and wait for the end of the answer."""
        if answer is not None:
            self.server.say(answer, **more)
        self.send(words)
        expect(self.page.locator(".message.writing")).to_have_count(0)
        expect(self.page.locator(".message .stats").last).to_be_visible()

    def click(self, name, last=False):
        button = self.page.get_by_role("button", name=name, exact=True)
        (button.last if last else button.first).click()

    def said(self):
        """What is in view, message by message."""
        return self.page.locator(".message .body").all_inner_texts()

    def module(self, name, code, argument=None):
        """The value of a function of one of the page's modules."""
        call = f"async (argument) => {{ const m = await import('/page/{name}'); return {code}; }}"
        return self.page.evaluate(call, argument)


@pytest.fixture
def visits(browser, english, server):
    """Open windows, in a profile of their own if it has options, and close them at the end.

    None may complain, and none may reach beyond the server.
    """
    opened, profiles = [], []

    def visit(at=server, **options):
        if options:
            profiles.append(browser.new_context(**{"locale": "en-US", **options}))
        opened.append(Visit(profiles[-1] if options else english, at))
        return opened[-1]

    yield visit
    for one in opened:
        one.page.close()
        assert [c for c in one.complaints if "Failed to load resource" not in c] == []
        own = (one.server.url, f"blob:{one.server.url}")
        assert [url for url in one.requests if not url.startswith(own)] == []
    for profile in profiles:
        profile.close()


@pytest.fixture
def visit(visits):
    return visits()


# Chatting


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


# What a model may say


HOSTILE = """<img src=x onerror=alert(1)> and <script>alert(2)</script>

[click](javascript:alert(3)) [data](data:text/html,x) ![picture](https://example.org/a.png)

<javascript:alert(4)> [fine](https://example.org/ok)"""


def test_hostile_text_stays_text(visit):
    dialogs = []
    visit.page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    visit.chat("Attack", HOSTILE)
    expect(visit.answer).to_contain_text(
        "<img src=x onerror=alert(1)> and <script>alert(2)</script>"
    )
    assert visit.answer.locator("img, script, iframe").count() == 0
    links = visit.answer.locator("a")
    addresses = links.evaluate_all("all => all.map((a) => a.href)")
    assert addresses == ["https://example.org/a.png", "https://example.org/ok"]
    assert links.first.get_attribute("rel") == "noopener noreferrer"
    assert links.first.get_attribute("target") == "_blank"
    visit.page.wait_for_timeout(100)
    assert dialogs == []


MARKDOWN = [
    ("# One\ntwo\nthree", "<h3>One</h3><p>two<br>three</p>"),
    ("**a** *b* ***c*** ~~d~~ `e*f*`", None),
    ("a_b_c and _d_ 2*3*4", "<p>a_b_c and <em>d</em> 2<em>3</em>4</p>"),
    ("2 * 3 * 4 and ** open", "<p>2 * 3 * 4 and ** open</p>"),
    ("*a **b** c*", "<p><em>a <strong>b</strong> c</em></p>"),
    ("\\*no\\*", "<p>*no*</p>"),
    ("- a\n  - b\n    - c\n- d", None),
    ("3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'),
    ("- a\n\n- b", "<ul><li>a</li><li>b</li></ul>"),
    ("> a\n> > b", "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote>"),
    ("a\n\n---\n\nb", "<p>a</p><hr><p>b</p>"),
    ("&amp; <b>", "<p>&amp;amp; &lt;b&gt;</p>"),
    ("", ""),
]
MARKDOWN_LONG = {
    1: "<p><strong>a</strong> <em>b</em> <strong><em>c</em></strong> <s>d</s> "
    "<code>e*f*</code></p>",
    6: "<ul><li>a<ul><li>b<ul><li>c</li></ul></li></ul></li><li>d</li></ul>",
}
RENDER = """argument.map((source) => {
    const place = document.createElement("div");
    m.renderMarkdown(place, source);
    return place.innerHTML.replaceAll(/ dir="(auto|ltr)"/g, "");
})"""


def test_markdown(visit):
    sources = [source for source, _ in MARKDOWN]
    drawn = visit.module("markdown.js", RENDER, sources)
    wanted = [MARKDOWN_LONG.get(n, html) for n, (_, html) in enumerate(MARKDOWN)]
    assert drawn == wanted


def test_markdown_that_grows_is_drawn_like_markdown_at_once(visit):
    source = (
        "# T\n\n1. a\n   ```python\n   x = 'y' # z\n   ```\n2. **b**\n\n"
        "| a | b |\n|---|--:|\n| 1 | `2` |\n\n> q\n\nlast [l](https://a.b/c) `code`\n\n~~~\nopen"
    )
    grown = visit.module(
        "markdown.js",
        """(() => {
            const place = document.createElement("div");
            for (let end = 0; end <= argument.length; end += 1) {
                m.renderMarkdown(place, argument.slice(0, end));
            }
            return place.innerHTML.replaceAll(/ dir="(auto|ltr)"/g, "");
        })()""",
        source,
    )
    assert [grown] == visit.module("markdown.js", RENDER, [source])
    assert grown.count("<pre") == 2
    assert '<th class="side-right">b</th>' in grown


def test_no_text_keeps_markdown_busy_for_long(visit):
    hard = ["*a " * 5000, "[" * 20000, "`" * 9999 + "a", "**a *b " * 3000, "> " * 5000, "_a" * 9000]
    hard += ["- " * 3000 + "a", "|" * 9000 + "\n" + "-|" * 4000, "`a ``b " * 3000, "[a](" * 5000]
    assert len(visit.module("markdown.js", RENDER, hard)) == len(hard)


def test_code_is_coloured_and_copied(visits):
    visit = visits(permissions=["clipboard-read", "clipboard-write"])
    visit.chat("Code", "Look:\n\n```python\ndef f(x):\n    return 'a' + 1  # why\n```\n\nDone.")
    code = visit.answer.locator("pre code")
    expect(code).to_have_text("def f(x):\n    return 'a' + 1  # why")
    kinds = code.locator("span").evaluate_all("all => all.map((s) => [s.className, s.textContent])")
    assert kinds == [
        ["code-keyword", "def"],
        ["code-keyword", "return"],
        ["code-string", "'a'"],
        ["code-number", "1"],
        ["code-comment", "# why"],
    ]
    read = "navigator.clipboard.readText()"
    visit.click("Copy code")
    assert visit.page.evaluate(read) == "def f(x):\n    return 'a' + 1  # why"
    visit.click("Copy", last=True)
    assert visit.page.evaluate(read).endswith("```\n\nDone.")


TEX = {
    r"\(a+b\)": r"<p>\(a+b\)</p>",
    r"so \(a_1 * b_2 * c_3\) **is**": r"<p>so \(a_1 * b_2 * c_3\) <strong>is</strong></p>",
    r"*an \(x*y\) here*": r"<p><em>an \(x*y\) here</em></p>",
    r"\[ \{x\} \, y \\ z \]": r"<p>\[ \{x\} \, y \\ z \]</p>",
    "Now:\n\\[\n- x\n+ y \\\\\n1. z\n\\]\nthen": (
        r"<p>Now:<br>\[<br>- x<br>+ y \\<br>1. z<br>\]<br>then</p>"
    ),
    "$$\nx_1*y_1*z\n$$": "<p>$$<br>x_1*y_1*z<br>$$</p>",
    r"$a_1*b_1*c$ and $5, **not** $6": "<p>$a_1*b_1*c$ and $5, <strong>not</strong> $6</p>",
    r"\begin{a}x \\ _y_\end{a} _z_": r"<p>\begin{a}x \\ _y_\end{a} <em>z</em></p>",
    r"\(open *a* \[b \) \]": r"<p>\(open *a* \[b \) \]</p>",
    r"\(never closed": r"<p>\(never closed</p>",
    r"- \(a\)": r"<ul><li>\(a\)</li></ul>",
    r"# \(a_b_c\)": r"<h3>\(a_b_c\)</h3>",
    r"\*no\* \# \\": r"<p>*no* # \</p>",
}


def test_formulas_are_shown_as_they_were_written(visit):
    assert visit.module("markdown.js", RENDER, list(TEX)) == list(TEX.values())


def test_no_heading_skips_a_level(visit):
    visit.chat("Hello", "### Deep\n\n> ###### Deeper\n\n- # Top\n\n## Next\n\n#### Last")
    visit.chat("And?", "# One\n\n## Two\n\n## Two\n\n###### Three")
    levels = visit.page.locator("h1, h2, h3, h4, h5, h6").evaluate_all(
        "all => all.filter((h) => h.checkVisibility()).map((h) => Number(h.tagName[1]))"
    )
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))
    assert levels[-4:] == [3, 4, 4, 5]
    assert visit.page.get_by_role("heading", level=2).all_inner_texts() == [
        "Your message 1",
        "Answer 1",
        "Your message 2",
        "Answer 2",
    ]


LABELS = """() => [...document.querySelectorAll("[role=region], article, [role=group], aside, ul, header")]
    .filter((e) => e.checkVisibility() && (e.ariaLabel || e.hasAttribute("aria-labelledby")))
    .map((e) => e.ariaLabel ?? document.getElementById(e.getAttribute("aria-labelledby")).textContent)
"""


def test_no_two_parts_of_the_page_have_the_same_name(visit):
    table = "\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```python\n1\n```\n\n```\n2\n```\n"
    visit.chat("Hello", table * 2)
    visit.chat("And?", table)
    labels = visit.page.evaluate(LABELS)
    assert "Table 3: a, b" in labels
    assert "Code 5: python" in labels
    assert "Code 6" in labels
    assert len(labels) == len(set(labels))


RIGHT_TO_LEFT = "שלום world 12\n\nAnd *from left*\n\n- שלום\n- a\n\n```\nשלום\n```"


def test_every_text_has_the_direction_of_its_letters(visit):
    direction = "e => getComputedStyle(e).direction"
    visit.chat("مرحبا 12", RIGHT_TO_LEFT)
    assert visit.page.locator(".message.user .body").evaluate(direction) == "rtl"
    blocks = visit.answer.locator("> *").evaluate_all(f"all => all.map({direction})")
    assert blocks == ["rtl", "ltr", "rtl", "ltr"]
    assert visit.page.locator("#title").evaluate(direction) == "rtl"
    assert visit.page.locator(".row .open span").evaluate(direction) == "rtl"
    for box in ("#input", "#search", "#raw-text"):
        assert visit.page.locator(box).get_attribute("dir") == "auto"
    visit.click("Parameters")
    visit.page.get_by_label("System prompt").fill("שלום")
    assert visit.page.get_by_label("System prompt").evaluate(direction) == "rtl"


# What is kept


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


# What can go wrong


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


# Parameters, states, raw text


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


# Everybody


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
    const others = document.querySelectorAll("#scroller, #composer, #raw-text, #title, .bar button");
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
        assert page.evaluate("document.activeElement.closest('#sidebar, body')?.id") in (
            "sidebar",
            "",
        )
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
