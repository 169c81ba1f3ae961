"""Two pages of one browser, which have the same texts."""

from tests.ui.test_write import FIELD, generate, text_of, written

FIRST = "The first "
PARTS = ".outline li"


def shows(page, text: str) -> None:
    """Wait until the page shows a text."""
    page.wait_for_function("(text) => document.querySelector('.field').value === text", arg=text)


def saved(page) -> None:
    """Wait until what the page shows is stored."""
    page.evaluate(
        """async () => {
          const shown = document.querySelector(".field").value;
          const done = (request) => new Promise((resolve) => {
            request.onsuccess = () => resolve(request.result);
          });
          const opened = await done(indexedDB.open("carousel"));
          for (;;) {
            const texts = opened.transaction("texts").objectStore("texts");
            const stored = await done(texts.get("write"));
            if (Object.values(stored?.pages ?? {}).some((one) => one.draft === shown)) break;
            await new Promise((resolve) => setTimeout(resolve, 20));
          }
          opened.close();
        }"""
    )


def test_neither_of_two_pages_loses_a_text_or_its_place(browsing):
    context = browsing.context()
    one, two = browsing.page(context=context), browsing.page(context=context)
    first = written(one, FIRST)
    second = written(two)
    two.fill(FIELD, second + "and")  # is in no part yet
    saved(two)
    written(one, "A third ")
    saved(one)
    for page, shown in ((two, second + "and"), (one, text_of(one))):
        page.reload()
        shows(page, shown)
        texts = page.locator(PARTS).all_inner_texts()
        assert sum("The first" in text for text in texts) == 1
        assert len(texts) == 6
    assert first.startswith(FIRST)


def test_two_pages_go_on_from_the_same_text(browsing):
    browsing.expected = ("status of 412",)
    context = browsing.context()
    one = browsing.page(context=context)
    text = written(one)
    saved(one)
    two = browsing.page(context=context)
    shows(two, text)
    longer = generate(one)
    two.focus(FIELD)
    two.keyboard.press("Control+Enter")
    shows(two, longer)  # by the same seed, in a fork: the session itself has gone on


def test_what_one_page_forgets_comes_back_from_no_other(browsing):
    context = browsing.context()
    one = browsing.page(context=context)
    written(one)
    saved(one)
    two = browsing.page(context=context)
    two.wait_for_selector(PARTS)
    two.get_by_text("More", exact=True).click()
    two.get_by_role("button", name="Forget everything").click()
    shows(one, "")
    one.fill(FIELD, "New")
    saved(one)
    one.reload()
    shows(one, "New")
    assert one.locator(PARTS).count() == 0
