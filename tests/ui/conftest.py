"""A real server and a real browser, in which whatever goes wrong fails the test."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.keys.conftest import new_folder
from tests.process import Server, serving

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DESKTOP = {"viewport": {"width": 1280, "height": 800}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}

# Told as an error, so that a violation is seen wherever it happens.
VIOLATIONS = """
document.addEventListener("securitypolicyviolation",
  (event) => console.error("policy: " + event.violatedDirective + " " + event.blockedURI));
"""


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Server]:
    with serving(new_folder(tmp_path_factory.mktemp("ui")), CAROUSEL_WORKERS="1") as running:
        yield running


@pytest.fixture(scope="module")  # Playwright's loop runs until its end, beside which no other can
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@dataclass
class Browsing:
    """Pages of one test; `expected` are the complaints that it provokes."""

    browser: Any
    origin: str
    complaints: list[str] = field(default_factory=list)
    expected: tuple[str, ...] = ()
    contexts: list[Any] = field(default_factory=list)

    def context(self, **options: Any) -> Any:
        """A profile of its own."""
        made = self.browser.new_context(**(DESKTOP | {"locale": "en-US"} | options))
        made.set_default_timeout(60_000)
        made.add_init_script(VIOLATIONS)
        self.contexts.append(made)
        return made

    def page(self, fragment: str = "", context: Any = None, **options: Any) -> Any:
        """A page that shows a view."""
        page = (context or self.context(**options)).new_page()
        page.on("console", lambda line: line.type == "error" and self.complain(line.text))
        page.on("pageerror", lambda error: self.complain(str(error)))
        page.on("request", lambda request: self.check(request.url))
        page.goto(f"{self.origin}/ui/{fragment}")
        page.wait_for_selector("main")
        return page

    def check(self, url: str) -> None:
        if not url.startswith((f"{self.origin}/", "data:", f"blob:{self.origin}/")):
            self.complain(f"a request to {url}")

    def complain(self, text: str) -> None:
        if not any(one in text for one in self.expected):
            self.complaints.append(text)


@pytest.fixture
def browsing(browser, server) -> Iterator[Browsing]:
    one = Browsing(browser, server.url)
    yield one
    for context in one.contexts:
        context.close()
    assert one.complaints == []
