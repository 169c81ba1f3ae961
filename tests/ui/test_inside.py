"""The view Look inside: a text in a cell's colours, and its equations."""

import re

import httpx2


def test_the_sum_of_a_character_is_the_one_of_the_api(browsing, server):
    page = browsing.page("#/inside")
    page.get_by_role("button", name="Read it").click()
    page.wait_for_selector(".coloured")
    text = page.inner_text(".words")
    page.focus(".coloured")
    for _ in range(text.index("(") + 1):
        page.keyboard.press("ArrowRight")
    page.wait_for_selector(".equation")
    assert page.inner_text(".sum kbd") == "("
    line = page.inner_text(".equation >> nth=0")
    f, c_before, i, g, c = map(float, re.findall(r"-?\d+\.\d+", line))
    assert abs(f * c_before + i * g - c) <= 1e-3
    assert f < 0.1
    body = {"inputs": text, "cells": [445], "signals": ["f", "c"]}
    signals = httpx2.post(f"{server.url}/inspect", json=body).json()["layers"][0]["signals"]
    at = text.index("(")
    assert abs(signals["f"][at][0] - f) <= 1e-4
    assert abs(signals["c"][at][0] - c) <= 1e-4
