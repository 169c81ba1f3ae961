"""What a designer would see at once: wrapped lines, cut rows, what does not fit, what jumps."""

from tests.ui.conftest import PHONE
from tests.ui.test_write import FIELD, GO, STOP, generate, written

ROWS = "(all) => new Set(all.map((one) => Math.round(one.getBoundingClientRect().top))).size"
HELD = "(one) => one.scrollWidth <= one.clientWidth"


def hold(page, pattern: str) -> list:
    """Keep the requests that match, until the test lets them go on."""
    held: list = []

    def take(route) -> None:
        held.append(route)

    page.route(pattern, take)
    return held


def test_the_sheet_of_a_desktop(browsing):
    """The status is one line, no row of the alternatives is cut, and a long seed fits."""
    page = browsing.page()
    held = hold(page, "**/score")
    written(page, seed=876_543)
    assert page.get_by_label("Seed", exact=True).evaluate(HELD)
    page.get_by_role("button", name="Surprise").click()
    facts = page.locator(".facts")
    assert facts.bounding_box()["height"] < 1.9 * 21
    assert facts.locator("span").evaluate_all(ROWS) == 1
    for _ in range(100):
        if held:
            break
        page.wait_for_timeout(20)

    # The card stays while the surprise of what was typed arrives.
    page.locator(FIELD).click(position={"x": 150, "y": 16})
    page.wait_for_selector(".alternatives ol .row")
    with page.expect_response("**/score"):
        held.pop().continue_()
    page.wait_for_timeout(200)
    rows = page.locator(".alternatives ol")
    assert rows.count() == 1
    row = page.locator(".alternatives .row").nth(0).bounding_box()["height"]
    assert rows.evaluate("(one) => one.clientHeight") % row == 0
    assert rows.bounding_box()["height"] > 4 * row


def test_the_speed_is_the_one_of_this_run(browsing):
    page = browsing.page()
    written(page)
    assert "characters/s" in page.inner_text(".facts")
    held = hold(page, "**/generate_stream")
    page.click(GO)
    page.wait_for_selector(STOP)
    page.wait_for_timeout(100)
    assert "characters/s" not in page.inner_text(".facts")
    held.pop().continue_()
    page.unroute("**/generate_stream")
    page.wait_for_selector(GO)
    generate(page)
    assert "characters/s" in page.inner_text(".facts")


def test_a_phone(browsing):
    """What belongs together stands in one row, and four buttons in two rows of two."""
    page = browsing.page(**PHONE)
    assert page.locator(".desk > .bar button").evaluate_all(ROWS) == 1
    assert page.locator(".top nav a").evaluate_all(ROWS) == 1
    assert page.locator(".top").bounding_box()["height"] < 110
    page.get_by_role("link", name="Models").click()
    deeds = page.get_by_role("article", name="demo@1").locator(".deeds button")
    deeds.nth(3).wait_for()
    lefts = deeds.evaluate_all("(all) => all.map((one) => one.getBoundingClientRect().left)")
    assert lefts[0] == lefts[2]
    assert lefts[1] == lefts[3]


def test_a_single_model_has_the_whole_width(browsing):
    page = browsing.page("#/models")
    page.locator(".cards .card").nth(0).wait_for()
    box = page.locator(".cards").bounding_box()
    cards = page.locator(".cards .card")
    widths = [cards.nth(n).bounding_box()["width"] for n in range(cards.count())]
    assert sum(widths[:2]) > 0.95 * box["width"]
