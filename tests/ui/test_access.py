"""What people with other eyes, hands and screens meet; and where the page keeps a key."""

from pathlib import Path

import httpx2
import pytest

from tests.keys.conftest import new_folder
from tests.process import serving
from tests.ui.conftest import PHONE, Browsing
from tests.ui.test_write import FIELD, GO, written

VIEWS = ["write", "inside", "train", "models"]
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def axe_script() -> str:
    package = pytest.importorskip("axe_playwright_python")
    return (Path(package.__file__).parent / "axe.min.js").read_text()


def findings(page) -> list[str]:
    page.evaluate(axe_script())
    result = page.evaluate("(tags) => axe.run({runOnly: tags})", TAGS)
    return [
        f"{one['id']}: {node['html'][:200]} {node['failureSummary'][:300]}"
        for one in result["violations"]
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(
    "screen",
    [{"color_scheme": "light"}, {"color_scheme": "dark"}, {"color_scheme": "light", **PHONE}],
    ids=["light", "dark", "phone"],
)
def test_axe_finds_nothing(browsing, view, screen):
    page = browsing.page(f"#/{view}", **screen)
    page.wait_for_load_state("networkidle")
    if view == "write" and "is_mobile" not in screen:
        written(page)
        page.focus(FIELD)
        page.keyboard.press("Alt+ArrowDown")
        page.wait_for_selector(".alternatives .row")
    if view == "inside":
        browsing.expected = ("status of 422",)
        page.get_by_role("button", name="Read it").click()
        page.wait_for_selector(".coloured")
        page.focus(".coloured")
        page.keyboard.press("ArrowRight")
        page.wait_for_selector(".equation")
        page.get_by_role("button", name="Find cells").click()  # too short a text: each is refused
        page.wait_for_selector(".finds .badge.refused")
        page.get_by_role("button", name="Measure").click()
        page.wait_for_selector(".measured dl")
        assert findings(page) == []
        page.get_by_role("button", name="Start the tour").click()
        page.wait_for_selector(".tour h2:focus")
    assert findings(page) == []


@pytest.mark.parametrize("view", VIEWS)
def test_a_narrow_window_is_not_scrolled_sideways(browsing, view):
    page = browsing.page(f"#/{view}", viewport={"width": 320, "height": 640})
    page.wait_for_load_state("networkidle")
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    page.wait_for_timeout(100)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


def test_a_key_is_asked_for_and_kept_in_memory_only(browser, tmp_path):
    admin_key = "an-admin-key-of-more-than-32-characters"
    with serving(new_folder(tmp_path), CAROUSEL_ADMIN_KEY=admin_key) as keyed:
        asked = {"name": "reader", "scopes": ["generate"]}
        headers = {"Authorization": f"Bearer {admin_key}"}
        made = httpx2.post(f"{keyed.url}/admin/keys", json=asked, headers=headers)
        secret = made.json()["secret"]
        browsing = Browsing(browser, keyed.url, expected=("status of 401",))
        page = browsing.page()
        page.fill("form.key input", secret)
        page.get_by_role("button", name="Use this key").click()
        page.wait_for_selector('.settings option:text-is("demo@1")', state="attached")
        stored = "JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])"
        assert secret not in page.evaluate(stored)
        page.reload()
        page.wait_for_selector("form.key input")
        assert page.input_value("form.key input") == ""
        browsing.contexts[0].close()
        assert browsing.complaints == []


def test_the_page_is_first_painted_soon_and_asks_for_little(browsing):
    page = browsing.page()
    page.wait_for_selector(GO)
    names = page.evaluate("performance.getEntriesByType('resource').map((one) => one.name)")
    assert 10 < len(names) < 60
