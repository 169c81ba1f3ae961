"""What decides the verdict on the best cell, each at its limit."""

from dataclasses import replace

import numpy as np
import pytest

from service.inspection.cell_search import CellUse, Find, FoundCell, Verdict, uses_of
from service.inspection.labels import Label

USE = CellUse((0, 7), 3, bits=0.5, count=40, rank=1, of=64)


def find(r_chosen_on=0.8, r=0.8, kind="binary", share=0.3, **fields) -> Find:
    label, cell = Label("a", kind, np.zeros(1)), FoundCell((0, 7), r_chosen_on, r, r)
    return Find(label, share, (cell,), (), **({"by_character": 0.1, "null_95": 0.2} | fields))


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({}, Verdict.FOUND),
        ({"r_chosen_on": -0.8, "r": -0.8}, Verdict.FOUND),
        ({"uses": (USE,)}, Verdict.USED),
        ({"uses": (replace(USE, bits=0.1, rank=3),)}, Verdict.USED),
        ({"uses": (replace(USE, bits=0.09),)}, Verdict.FOUND),
        ({"uses": (replace(USE, rank=4),)}, Verdict.FOUND),
        ({"uses": (replace(USE, place=(0, 8)),)}, Verdict.FOUND),
        ({"uses": (replace(USE, place=(1, 7)), USE)}, Verdict.USED),
        ({"r": 0.49}, Verdict.WEAK),
        ({"r": 0.5}, Verdict.FOUND),
        ({"share": 0.019}, Verdict.WEAK),
        ({"share": 0.02}, Verdict.FOUND),
        ({"share": 0.001, "kind": "number"}, Verdict.FOUND),
        ({"by_character": 0.76}, Verdict.FREE),
        ({"by_character": 0.74}, Verdict.FOUND),
        ({"untrained": 0.76}, Verdict.FREE),
        ({"untrained": 0.74}, Verdict.FOUND),
        ({"by_character": 0.76, "uses": (USE,)}, Verdict.FREE),
        ({"r": 0.39}, Verdict.NOT_CONFIRMED),
        ({"r": 0.41}, Verdict.WEAK),
        ({"r": -0.8}, Verdict.NOT_CONFIRMED),
        ({"r": 0.2}, Verdict.NONE),
        ({"r_chosen_on": 0.2}, Verdict.NONE),
        ({"r": -0.1}, Verdict.NONE),
    ],
)
def test_each_limit_decides(fields, verdict):
    assert find(**fields).verdict is verdict
    assert replace(find(**fields), cells=()).verdict is Verdict.NONE


def test_a_cell_s_use_is_that_of_the_token_it_costs_most():
    tokens, counts = np.array([3, 4, 7]), np.array([9, 4, 6])
    costs = {
        (0, 1): np.array([0.1, 9.0, 0.5]),  # 9.0 of too few tokens
        (0, 2): np.array([0.9, 0.0, 0.2]),
        (1, 1): np.array([0.0, 0.0, 0.7]),
    }
    found = uses_of(costs, (tokens, counts), [3, 4, 7], [(0, 1), (0, 2), (2, 0)])
    assert found == [
        CellUse((0, 1), 7, bits=0.5, count=6, rank=2, of=3),
        CellUse((0, 2), 3, bits=0.9, count=9, rank=1, of=3),
    ]
    assert uses_of(costs, (tokens, counts), [4], [(0, 1)]) == []
