"""Windows of a real browser on the chat page, against answers that are laid out beforehand."""

import shutil

import pytest

from tests.page.page_server import PageServer

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect

CHROMIUM = next(
    filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None
)
PATIENCE = 15_000  # milliseconds, on a machine that does other things as well
EMPTY_AT_FIRST = """if (!sessionStorage.getItem("begun")) {
    localStorage.clear();
    sessionStorage.setItem("begun", "yes");
}"""


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
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
        """Return the visible text of each message."""
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
