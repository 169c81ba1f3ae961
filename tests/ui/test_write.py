"""The view Write: from a first word to forks, links and a reload in the middle."""

import re

import httpx2
import pytest

FIELD = ".field"
STOP, GO = ".deck .stop", ".deck .main:not(.stop)"
PROMPT = "The class "


def text_of(page) -> str:
    return page.input_value(FIELD)


def set_number(page, label: str, value: int) -> None:
    page.get_by_label(label, exact=True).fill(str(value))
    page.get_by_label(label, exact=True).press("Tab")


def generated(page) -> None:
    """Wait until what was begun has ended."""
    page.wait_for_selector(".outline li.current .sign.generated")
    page.wait_for_selector(GO)


def generate(page, keys: str = "Control+Enter") -> str:
    """Generate, and return the text once it has ended."""
    before = text_of(page)
    page.focus(FIELD)
    page.keyboard.press(keys)
    generated(page)
    assert text_of(page) != before
    return text_of(page)


def written(page, prompt: str = PROMPT, length: int = 80, seed: int = 7) -> str:
    set_number(page, "Length", length)
    set_number(page, "Seed", seed)
    page.fill(FIELD, prompt)
    return generate(page)


@pytest.fixture
def page(browsing):
    return browsing.page()


def test_a_text_is_the_one_that_the_api_generates(page, server):
    text = written(page)
    parameters = {"max_new_tokens": 80, "seed": 7, "temperature": 0.8}
    body = {"inputs": PROMPT, "parameters": parameters}
    reply = httpx2.post(f"{server.url}/generate", json=body).json()
    assert text == PROMPT + reply["generated_text"]
    assert page.inner_text(".facts").startswith("position 90 · seed 7")
    assert page.title() == "Write · Carousel"


def test_another_character_is_taken_and_the_tree_is_walked(page):
    text = written(page)
    box = page.locator(FIELD).bounding_box()
    page.mouse.click(box["x"] + 150, box["y"] + 16)
    page.wait_for_selector(".alternatives ol")
    assert page.locator(".alternatives .row").count() == 20
    there = page.locator(".alternatives .row.here kbd").inner_text()
    assert page.locator(".alternatives h2 kbd").inner_text() == there
    other = page.locator(".alternatives .row:not(.here) kbd").nth(0).inner_text()
    page.locator(".alternatives .row:not(.here)").nth(0).click()
    page.wait_for_selector(".outline .sign.taken")
    generated(page)
    forked = text_of(page)
    at = next(i for i, (a, b) in enumerate(zip(text, forked, strict=False)) if a != b)
    assert forked[at] == {"␣": " ", "⏎": "\n"}.get(other, other)
    assert len(forked) == at + 1 + 80

    page.focus(FIELD)
    for keys, expected in [
        ("Control+z", forked[: at + 1]),
        ("Control+z", text),
        ("Control+z", PROMPT),
        ("Control+Shift+z", text),
        ("Control+Shift+z", forked[: at + 1]),
        ("Control+y", forked),
    ]:
        page.keyboard.press(keys)
        assert wait_for_text(page, expected) == expected, keys


def wait_for_text(page, expected: str) -> str:
    for _ in range(50):
        if text_of(page) == expected:
            break
        page.wait_for_timeout(50)
    return text_of(page)


def test_the_same_by_keyboard_alone(page):
    """From the address bar on: no pointer, and the focus is seen wherever it is."""
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for _ in range(40):
        page.keyboard.press("Tab")
        style = "getComputedStyle(document.activeElement).outlineStyle"
        name = page.evaluate("document.activeElement.className")
        if name.endswith("field"):
            break
        assert page.evaluate(style) != "none", page.evaluate("document.activeElement.outerHTML")
    page.keyboard.type(PROMPT)
    text = generate(page)
    page.keyboard.press("Alt+ArrowDown")
    page.wait_for_selector(".alternatives .row:focus")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Escape")
    page.wait_for_selector(".alternatives", state="detached")
    assert page.evaluate("document.activeElement.className").endswith("field")
    page.keyboard.press("Alt+r")
    page.wait_for_selector(".outline li:nth-child(3)")
    page.wait_for_selector(GO)
    again = text_of(page)
    assert again != text
    page.focus(FIELD)
    page.keyboard.press("Alt+ArrowLeft")
    assert wait_for_text(page, text) == text
    page.keyboard.press("Alt+ArrowRight")
    assert wait_for_text(page, again) == again


def test_typing_inside_a_text_forks_it_there(page, server):
    text = written(page)
    page.focus(FIELD)
    page.evaluate("document.querySelector('.field').setSelectionRange(20, 20)")
    page.keyboard.type("XY")
    changed = generate(page)
    assert changed.startswith(text[:20] + "XY" + text[20:])
    body = {
        "inputs": text[:20] + "XY" + text[20:],
        "parameters": {"max_new_tokens": 80, "seed": 7, "temperature": 0.8},
    }
    expected = httpx2.post(f"{server.url}/generate", json=body).json()["generated_text"]
    assert changed.endswith(expected)
    page.focus(FIELD)
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    assert wait_for_text(page, text) == text


def test_a_link_writes_the_same_text_in_a_new_profile(page, browsing):
    written(page)
    page.keyboard.type(" (and ")
    generate(page)
    box = page.locator(FIELD).bounding_box()
    page.mouse.click(box["x"] + 150, box["y"] + 16)
    page.locator(".alternatives .row:not(.here)").nth(1).click()
    page.wait_for_selector(".outline .sign.taken")
    generated(page)
    text = text_of(page)
    page.get_by_role("button", name="Link").click()
    link = page.input_value(".status.link input")
    assert len(link) < 700
    assert text[:20] not in link

    other = browsing.page(link[link.index("#") :])
    other.wait_for_selector(".status.good")
    assert text_of(other) == text
    assert "same text" in other.inner_text(".told")


def test_a_reload_in_the_middle_loses_nothing(page, server):
    set_number(page, "Length", 30_000)
    set_number(page, "Seed", 5)
    page.fill(FIELD, PROMPT)
    page.focus(FIELD)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(STOP)
    for _ in range(100):
        if len(text_of(page)) > 200:
            break
        page.wait_for_timeout(20)
    before = text_of(page)
    page.reload()
    page.wait_for_selector(STOP)
    page.wait_for_timeout(300)
    page.get_by_role("button", name="Stop").click()
    page.wait_for_selector(GO)
    after = text_of(page)
    assert after.startswith(before)
    assert len(before) < len(after)
    page.wait_for_timeout(600)
    page.reload()
    assert wait_for_text(page, after) == after
    body = {
        "inputs": PROMPT,
        "parameters": {"max_new_tokens": len(after) - len(PROMPT), "seed": 5, "temperature": 0.8},
    }
    whole = httpx2.post(f"{server.url}/generate", json=body, timeout=60).json()
    assert after == PROMPT + whole["generated_text"]


def test_surprise_is_painted_and_the_text_stays_one_node(page):
    written(page)

    def ink() -> int:
        return page.evaluate(
            """() => {
              const canvas = document.querySelector(".sheet canvas");
              const { width, height } = canvas;
              const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
              let n = 0;
              for (let at = 3; at < data.length; at += 4) n += data[at] > 0;
              return n;
            }"""
        )

    plain = ink()
    page.get_by_role("button", name="Surprise").click()
    page.wait_for_timeout(500)
    assert ink() > 2 * plain
    assert page.evaluate("document.querySelector('.copy').childNodes.length") == 1


def test_what_the_server_refuses_is_a_sentence(page, browsing):
    browsing.expected = ("status of 422",)
    page.fill(FIELD, "The 𠮷")
    page.get_by_role("button", name="Generate").click()
    page.wait_for_selector(".status.error")
    assert "no token for '𠮷'" in page.inner_text(".told")
    assert text_of(page) == "The 𠮷"


def test_a_lost_session_is_made_again(page, server, browsing):
    browsing.expected = ("status of 410",)
    text = written(page)
    sessions = httpx2.get(f"{server.url}/sessions").json()["sessions"]
    for one in sessions:
        httpx2.delete(f"{server.url}/sessions/{one['id']}")
    longer = generate_more(page)
    assert longer.startswith(text)
    assert len(longer) == len(text) + 80


def generate_more(page) -> str:
    before = text_of(page)
    page.click(GO)
    for _ in range(100):
        if len(text_of(page)) > len(before) and page.query_selector(GO):
            break
        page.wait_for_timeout(50)
    page.wait_for_selector(GO)
    return text_of(page)


def test_a_hostile_text_is_only_text(browsing):
    """What a model says is never markup, nor is what a link brings."""
    page = browsing.page()
    hostile = (
        '<img src=x onerror="console.error(1)"> \x01</textarea><script>console.error(2)</script>'
    )
    page.fill(FIELD, hostile)
    page.get_by_role("button", name="New text").click()
    page.wait_for_selector(".outline li")
    assert page.locator(".outline .words").inner_text().startswith("<img")
    assert page.query_selector(".write img, .write script") is None


def test_the_language_and_the_theme_stay(browsing):
    page = browsing.page(locale="zh-CN")
    assert page.get_by_role("button", name="生成").count() == 1
    assert page.evaluate("document.documentElement.lang") == "zh-Hans"
    page.locator(".top select").nth(0).select_option("en")
    page.locator(".top select").nth(1).select_option("dark")
    page.reload()
    page.wait_for_selector(GO)
    assert page.get_by_role("button", name="Generate").count() == 1
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 22, 26)"


def test_a_prompt_is_in_no_local_storage(page):
    written(page)
    page.wait_for_timeout(600)
    stored = page.evaluate("JSON.stringify(localStorage)")
    assert not re.search("class", stored)


def test_a_part_is_deleted_when_that_was_said_twice(page):
    written(page)
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Keep").click()
    page.get_by_role("button", name="Delete").click()
    assert page.locator(".outline li").count() == 2
    page.get_by_role("button", name="Delete for good").click()
    page.wait_for_function("() => document.querySelectorAll('.outline li').length === 1")
    assert text_of(page) == PROMPT


def test_a_link_is_shown_as_long_as_its_text(page):
    written(page)
    page.get_by_role("button", name="Link").click()
    page.wait_for_selector(".status.link input")
    page.get_by_role("button", name="Undo").click()
    page.wait_for_selector(".status.link input", state="detached")
