"""`carousel inspect` against a running server."""

import json
import shutil
from xml.etree import ElementTree as ET

import httpx2
import pytest

from service.cli.text_picture import colour, drawn
from service.models.cell import LayerSpec
from service.models.spec import ModelSpec
from tests.bundles import put_model
from tests.cli.commands import carousel, printed, refused
from tests.process import ROOT, serving

TEXT = "The function (see below) is"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(ROOT / "model_store" / "demo", folder / "model_store" / "demo")
    pair = ModelSpec(3, None, (LayerSpec("gru", 4), LayerSpec("gru", 5)))
    put_model(folder / "model_store", "pair", pair, random_seed=1)
    (folder / "model_store" / "registry.json").write_text(
        '{"aliases": {"default": "demo@1"}, "loaded": ["demo@1", "pair@1"]}'
    )
    return folder


@pytest.fixture(scope="module")
def server(home):
    with serving(home) as running:
        yield running


def test_a_table_and_a_picture(server, home):
    picture, to = home / "cell.svg", ("--url", server.url)
    said = carousel(
        *("inspect", TEXT, "--cell", 445, "--signals", "f,c", "--picture", picture, *to),
        folder=home,
    )
    assert said.returncode == 0, said.stderr
    head, *rows, written = said.stdout.splitlines()
    assert head.split() == ["text", "f", "c"]
    assert len(rows) == len(TEXT)
    assert rows[TEXT.index("(")].split()[:2] == ["'('", "+0.000"]
    assert written == f"written: {picture}"
    marks = ET.parse(picture).getroot()
    shown = [one.text for one in marks.iter("{http://www.w3.org/2000/svg}text")]
    assert "".join(shown[1:]) == TEXT
    assert shown[0] == "demo@1, layer 0, cell 445: tanh_c"


def test_values_as_json_of_several_cells(server, home):
    arguments = ("inspect", "ab", "--cell", 1, "--cell", 2, "--signals", "h", "--json")
    rows = json.loads(printed(*arguments, "--url", server.url, folder=home))
    assert [[*row] for row in rows] == [["text", "h.1", "h.2"]] * 2
    assert all(-1 < row["h.2"] < 1 for row in rows)


def test_the_model_the_layer_and_the_cells_are_those_that_are_named(server, home):
    """Cells keep their order, numbers all of their digits, and a GRU is coloured by its h."""
    picture, cells = home / "pair.svg", (4, 1)
    chosen = ("--cell", 4, "--cell", 1, "--layer", 1, "--model", "pair", "--signals", "z,h")
    said = printed(
        *("inspect", "abcab", *chosen, "--json", "--picture", picture, "--url", server.url),
        folder=home,
    )
    rows, end = json.JSONDecoder().raw_decode(said)
    assert said[end:].strip() == f"written: {picture}"
    body = {"inputs": "abcab", "model": "pair", "layers": [1], "cells": cells}
    signals = httpx2.post(f"{server.url}/inspect", json=body).json()["layers"][0]["signals"]
    assert rows == [
        {"text": repr(text)}
        | {f"{name}.{cell}": signals[name][t][i] for i, cell in enumerate(cells) for name in "zh"}
        for t, text in enumerate("abcab")
    ]
    marks = [*ET.parse(picture).getroot().iter()]
    titles = [one.text for one in marks if one.get("class") == "t"]
    assert titles == [f"pair@1, layer 1, cell {cell}: h" for cell in cells]
    fills = [one.get("fill") for one in marks if one.tag.endswith("rect")][1:]
    assert fills == [colour(row[i]) for i in range(2) for row in signals["h"]]
    assert len({*fills}) > 5


def test_what_cannot_be_shown_is_refused(server, home):
    to = ("--url", server.url)
    assert "`cells` has 448" in refused("inspect", "a", "--cell", 448, *to, folder=home)
    said = refused("inspect", "a", "--cell", 1, "--picture", "a.png", *to, folder=home)
    assert "ends in .svg" in said


def test_colours_go_from_blue_to_red():
    found = [colour(value) for value in (-1, 0, 1, 5)]
    assert found == ["#2166ac", "#ffffff", "#b2182b", "#b2182b"]
    picture = drawn(["<", "\n", "&" * 90], ["a & b"], [[0.1, -0.2, 0.9]])
    marks = ET.fromstring(picture)
    shown = [one.text for one in marks.iter("{http://www.w3.org/2000/svg}text")]
    assert "".join(shown[1:]) == "<\u23ce" + "&" * 90
    heights = {one.get("y") for one in marks.iter("{http://www.w3.org/2000/svg}rect")}
    assert len(heights) == 4  # the ground and three lines
