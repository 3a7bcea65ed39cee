"""The page shows Markdown, formulas, code, hostile text, and text of both directions."""

from itertools import pairwise

import pytest

expect = pytest.importorskip("playwright.sync_api").expect


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
    rendered = visit.module("markdown.js", RENDER, sources)
    wanted = [MARKDOWN_LONG.get(n, html) for n, (_, html) in enumerate(MARKDOWN)]
    assert rendered == wanted


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
    hard += ["\\(" * 20000, "$" * 20001, "$a " * 9000, "\\[\n" * 9000, "*a \\(b " * 5000]
    hard += ["".join(f"\\begin{{a{n}}}" for n in range(5000)), "$$\n- " * 5000]
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
    r"\[a](https://a.b/c)": (
        r'<p>\[a](<a href="https://a.b/c" target="_blank" rel="noopener noreferrer">'
        "https://a.b/c</a>)</p>"
    ),
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
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert levels[-4:] == [3, 4, 4, 5]
    assert visit.page.get_by_role("heading", level=2).all_inner_texts() == [
        "Your message 1",
        "Answer 1",
        "Your message 2",
        "Answer 2",
    ]


LABELS = """() => {
    const nameOf = (e) => e.ariaLabel
        ?? document.getElementById(e.getAttribute("aria-labelledby"))?.textContent;
    return [...document.querySelectorAll("[role=region], [role=group], article, aside, ul")]
        .filter((e) => e.checkVisibility()).map(nameOf).filter(Boolean);
}"""


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
