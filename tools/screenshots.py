"""The pictures of the page in the docs: `make screenshots` takes them of a server of its own.

It needs Chromium and no network. A picture of Chinese text needs a font with its glyphs, such as
that of Debian's package `fonts-noto-cjk`; none of these has any.
"""

import base64
import pydoc_data.topics
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from tests.process import ROOT, serving

IMAGES = ROOT / "docs" / "images"
MOST_BYTES = 150_000
_WIDTH, _HEIGHT = 1280, 800
_QUALITY = 82
_PROMPT = "The with statement "
_LIMIT_MS = 240_000  # of training, and of anything on a busy machine


def main() -> None:
    """Write each picture. Raises SystemExit where one is too large for a document."""
    wanted = sys.argv[1:] or list(SCENES)
    IMAGES.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(_prepared(Path(folder)), CAROUSEL_WORKERS="1") as server,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for name in wanted:
            _take(browser, server.url, name)
        browser.close()


def _prepared(folder: Path) -> Path:
    """A folder with a store of the bundled model, which a server may change."""
    shutil.copytree(ROOT / "model_store", folder / "model_store")
    (folder / "imports").mkdir()
    return folder


def _take(browser: Browser, url: str, name: str) -> None:
    context = browser.new_context(
        viewport={"width": _WIDTH, "height": _HEIGHT},
        locale="en-US",
        color_scheme="dark" if name.endswith("-dark") else "light",
    )
    context.set_default_timeout(_LIMIT_MS)
    page = context.new_page()
    page.goto(f"{url}/ui/")
    SCENES[name](page)
    reply = context.new_cdp_session(page).send(
        "Page.captureScreenshot", {"format": "webp", "quality": _QUALITY}
    )
    content = base64.b64decode(reply["data"])
    if len(content) > MOST_BYTES:
        raise SystemExit(f"{name}: {len(content):,} bytes, but a picture may have {MOST_BYTES:,}")
    (IMAGES / f"{name}.webp").write_bytes(content)
    context.close()


def _write(page: Page) -> None:
    """Two generations of one beginning, a fork, and what else could stand at a character."""
    if not page.get_by_label("Seed", exact=True).is_visible():  # a phone's panels are closed
        page.get_by_text("Settings", exact=True).click()
    for label, value in (("Seed", "1"), ("Temperature, as a number", "0.6"), ("Length", "400")):
        field = page.get_by_label(label, exact=True)
        field.fill(value)
        field.press("Tab")
    sheet = page.locator(".field")
    sheet.focus()
    page.keyboard.type(_PROMPT)
    page.keyboard.press("Control+Enter")
    _generated(page, "seed 1")
    page.get_by_role("button", name="Again").click()
    _generated(page, "seed 2")
    page.get_by_role("button", name="Surprise").click()
    _choose(page, 60, 16)
    page.locator(".alternatives .row:not(.here)").nth(1).click()
    page.wait_for_selector(".outline .sign.taken", state="attached")
    _generated(page, "seed 2")
    _choose(page, 250, 48)
    page.wait_for_timeout(500)  # the tints are painted


def _choose(page: Page, x: float, y: float) -> None:
    """Click on a character of the sheet, and wait for what else could stand there."""
    page.locator(".field").click(position={"x": x, "y": y})
    page.wait_for_selector(".alternatives ol .row")


def _generated(page: Page, facts: str) -> None:
    page.wait_for_selector(f".facts:has-text('{facts}')")
    page.wait_for_selector("button.main:has-text('Generate')")


def _models(page: Page) -> None:
    """The bundled model with what it writes."""
    page.get_by_role("link", name="Models").click()
    page.get_by_role("button", name="Sample").first.click()
    page.wait_for_selector(".sample")
    page.wait_for_timeout(300)


def _train(page: Page) -> None:
    """A small network, from a dropped text to what it writes."""
    page.get_by_role("link", name="Train").click()
    text = "".join(pydoc_data.topics.topics.values())[:200_000]
    page.set_input_files(
        ".drop input[type=file]",
        {"name": "python_help.txt", "mimeType": "text/plain", "buffer": text.encode()},
    )
    page.wait_for_selector(".drop .good")
    for name, value in {"name": "help", "units": "96", "epochs": "8"}.items():
        page.fill(f"[name={name}]", value)
    page.get_by_role("button", name="Train", exact=True).click()
    page.wait_for_selector(".badge.succeeded")
    page.wait_for_selector(".chart circle")
    page.wait_for_selector(".sample")
    page.locator(".chart").evaluate("(one) => one.closest('.card').scrollIntoView()")
    page.wait_for_timeout(300)


def _inside(page: Page) -> None:
    """A text in the colours of the cell that follows parentheses, and its sum at one of them."""
    page.get_by_role("link", name="Look inside").click()
    page.get_by_role("button", name="Read it").click()
    page.wait_for_selector(".coloured")
    text = page.inner_text(".words")
    page.focus(".coloured")
    for _ in range(text.index("(") + 1):
        page.keyboard.press("ArrowRight")
    page.wait_for_selector(".equation")
    page.wait_for_timeout(300)


SCENES: dict[str, Callable[[Page], None]] = {
    "write": _write,
    "write-dark": _write,
    "inside": _inside,
    "train": _train,
    "models": _models,
}


if __name__ == "__main__":
    main()
