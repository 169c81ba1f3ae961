"""The view Look inside: a text in a cell's colours, its equations, the finds and the tour."""

import math
import re

import httpx2
import pytest

from tests.api.test_inspection_ablation import UNSEEN

NUMBER = re.compile(r"-?\d+\.\d+")
ANSWER = ".tour [aria-live] p"


def read(page) -> str:
    page.get_by_role("button", name="Read it").click()
    page.wait_for_selector(".coloured")
    return page.inner_text(".words")


def test_the_sum_of_a_character_is_the_one_of_the_api(browsing, server):
    page = browsing.page("#/inside")
    read(page)
    text = page.input_value("textarea")
    page.focus(".coloured")
    for _ in range(text.index("(") + 1):
        page.keyboard.press("ArrowRight")
    page.wait_for_selector(".equation")
    assert page.inner_text(".sum kbd") == "("
    lines = page.locator(".equation").all_inner_texts()
    assert [line[0] for line in lines] == ["f", "i", "g", "o", "c", "h"]
    f, c_before, i, g, c = map(float, NUMBER.findall(lines[4]))
    assert abs(f * c_before + i * g - c) <= 1e-3
    assert f < 0.1
    body = {"inputs": text, "cells": [445]}
    signals = httpx2.post(f"{server.url}/inspect", json=body).json()["layers"][0]["signals"]
    at = text.index("(")
    assert abs(signals["f"][at][0] - f) <= 1e-4
    assert abs(signals["c"][at][0] - c) <= 1e-4
    for line in lines[:4]:
        gate = "tanh" if line[0] == "g" else "σ"
        assert line.startswith(
            f"{line[0]} = {gate}(W_{line[0]}·x + U_{line[0]}·h₋₁ + b_{line[0]}) = "
        )
        *total, value = map(float, NUMBER.findall(line))
        assert abs(signals[line[0]][at][0] - value) <= 1e-4
        for x in total:
            said = math.tanh(x) if line[0] == "g" else 1 / (1 + math.exp(-x))
            assert abs(said - value) <= 0.006
    assert sum(len(NUMBER.findall(line)) for line in lines[:4]) > 4  # some have their sum


def test_a_cell_that_is_found_is_coloured_ablated_and_opened_elsewhere(browsing):
    browsing.expected = ("status of 422",)
    page = browsing.page("#/inside")
    page.set_default_timeout(240_000)  # a search takes a core for seconds, which others use, too
    page.fill("textarea", UNSEEN[500:12_500])
    page.get_by_role("button", name="Find cells").click()
    page.wait_for_selector('.finds li:has(h3:text-is("inside double quotes"))')
    page.get_by_role("button", name="Stop").click()
    row = page.locator(".finds li").first
    assert "found and used" in row.inner_text()
    evidence = row.locator(".evidence").inner_text()
    for said in ("held out", "by chance", "untrained network", "it costs ) "):
        assert said in evidence
    page.fill("[name=pattern]", "no such text")
    page.wait_for_selector(".own button:not(:disabled)")
    page.get_by_role("button", name="Find mine").click()
    page.wait_for_selector(".finds li:has(.badge.refused)")
    assert "at least 30" in page.inner_text(".finds li:has(.badge.refused) p")
    assert "found and used" in row.inner_text()  # the refusal of one takes no other with it

    row.get_by_role("button", name="Cell 445").click()
    page.wait_for_selector(".coloured:focus")
    assert page.input_value("[name=cell]") == "445"
    page.get_by_role("button", name="Measure").click()
    assert "“(”" in page.locator(".measured dl div", has_text="Cleared by").inner_text()
    page.get_by_role("button", name="Ablate").click()
    first = page.locator(".dearest li").first.inner_text()
    assert first.startswith(")")
    assert float(re.findall(r"[\d.]+", first)[0]) >= 2
    page.focus(".coloured")
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**at=0**")

    other = browsing.page(page.url.partition("/ui/")[2])  # in a profile of its own
    other.wait_for_selector(".equation")
    assert other.input_value("[name=cell]") == "445"
    assert other.inner_text(".equation >> nth=4") == page.inner_text(".equation >> nth=4")


def test_the_text_of_the_model_is_coloured_at_once_and_no_older_one(browsing):
    page = browsing.page("#/inside")
    before = read(page)
    page.get_by_role("button", name="Let the model write").click()
    page.wait_for_selector("[name=part]")  # it has more than one
    after = page.inner_text(".words")
    assert after != before
    assert page.input_value("textarea").startswith(after[:1_000])
    page.fill("textarea", "Another text.")
    page.wait_for_selector(".coloured", state="detached")


def test_the_tour_breaks_the_cell_by_keyboard(browsing):
    page = browsing.page("#/inside")
    page.focus(".tour button")
    page.keyboard.press("Enter")
    answers = []
    for n in range(6):
        page.wait_for_selector(f".tour h2:focus:has-text('{'( ?' if n == 1 else '?'}')")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_selector(ANSWER)
        answers.append(page.locator(ANSWER).first.inner_text())
        if n < 5:
            page.keyboard.press("Enter")
            page.wait_for_selector(ANSWER, state="detached")
    bits = re.search(r"\) costs ([\d.]+) bits", answers[4])
    assert float(bits[1]) >= 2
    whole, broken = map(int, re.findall(r"(\d+) of 16", answers[5]))
    assert whole >= 10
    assert broken <= 4
    assert page.locator(".tour mark").count() == 2


def test_a_cell_that_is_passed_over_is_not_asked_for(browsing):
    page = browsing.page("#/inside")
    read(page)
    page.focus(".coloured")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(".equation")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    with page.expect_request("**/inspect"):
        page.evaluate(
            """async () => {
              const field = document.querySelector("[name=cell]");
              for (let cell = 0; cell < 40; cell += 1) {
                field.value = cell;
                field.dispatchEvent(new Event("input", { bubbles: true }));
                await new Promise(requestAnimationFrame); // each is shown
              }
            }"""
        )
    page.wait_for_timeout(400)
    # One, but where a busy machine took long to show a cell.
    assert 1 <= len([url for url in asked if url.endswith("/inspect")]) < 20


@pytest.mark.parametrize("by_system", [True, False], ids=["system", "choice"])
def test_another_theme_paints_the_text_again(browsing, by_system):
    page = browsing.page("#/inside", color_scheme="light")
    read(page)
    page.wait_for_timeout(200)
    pixels = "document.querySelector('.coloured canvas').toDataURL()"
    before = page.evaluate(pixels)
    is_painted = f"before => {pixels} !== before"
    if by_system:
        page.emulate_media(color_scheme="dark")
    else:
        page.get_by_label("Theme").select_option("dark")
    page.wait_for_function(is_painted, arg=before)
