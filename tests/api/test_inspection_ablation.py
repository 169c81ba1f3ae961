import math

import pytest

from service.training.demo import ORDER_SEED, VALIDATION_SHARE
from service.training.demo_corpus import topics_text

ALL = topics_text(ORDER_SEED)
UNSEEN = ALL[-int(VALIDATION_SHARE * len(ALL)) :]
"""The part of the bundled model's text that it was not trained on."""


def ablate(http, inputs, **fields):
    reply = http.post("/inspect/ablate", json={"inputs": inputs, **fields})
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_the_bundled_model_uses_cell_445_to_close_parentheses(http):
    sets = [[445], [363], [0], [1], [445, 363]]
    text = UNSEEN[500:8_500]
    found = ablate(http, text, cells=sets, where="in_parentheses")
    closing = next(token for token in found["tokens"] if token["text"] == ")")
    assert closing["count"] == text.count(")")
    costs = {tuple(one["cells"]): one["bits"] for one in closing["costliest"]}
    assert costs[445,] > 2.0  # of some three bits without it held
    assert max(costs[363,], costs[0,], costs[1,]) < 0.5
    by_set = {tuple(one["cells"]): one for one in found["sets"]}
    assert [one["cells"] for one in found["sets"]] == sets
    assert by_set[445,]["bits_where"] > 5 * by_set[445,]["bits"] > 0  # the mean hides it
    assert len(by_set[445, 363]["values"]) == 2
    assert 1 < found["bits"] < 3
    score = http.post("/score", json={"inputs": text, "details": False}).json()
    assert found["bits"] == pytest.approx(score["nats_per_token"] / math.log(2), rel=2e-3)


def test_all_cells_and_a_number(http):
    found = ablate(http, "def f(x):\n    return (x)\n", cells="all", hold=2.5)
    assert [one["cells"] for one in found["sets"]] == [[cell] for cell in range(448)]
    assert {one["values"][0] for one in found["sets"]} == {2.5}
    assert "bits_where" not in found
    assert all(len(token["costliest"]) == 5 for token in found["tokens"])


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"cells": [[448]]}, "`cells` has 448"),
        ({"cells": []}, "cells"),
        ({"cells": [[1]], "layer": 1}, "`layer` is 1"),
        ({"cells": [[1]], "hold": "median"}, "hold"),
        ({"cells": [[1]], "where": "in_love"}, "'in_love' is no property; there are in_double"),
        ({"cells": [[1]], "where": "column"}, "`where` is column, a number"),
        ({"cells": [[1]], "where": {"name": "mine"}}, "has 0 of `match`, `spans` and `values`"),
        ({"cells": [[1]], "where": {"name": "mine", "spans": [[2, 9]]}}, "two places from 0 to 3"),
        ({"cells": [[1]], "where": {"name": "mine", "values": [1]}}, "one for each"),
        ({"cells": [[1]], "where": {"name": "mine", "match": "[z"}}, "a [ is not closed"),
        ({"cells": "all", "inputs": "a" * 50_000}, "at most 44642 tokens, or fewer sets"),
        ({"cells": [[1]], "inputs": "a"}, "nothing predicts the only token"),
    ],
)
def test_what_cannot_be_ablated_is_refused_by_name(http, fields, sentence):
    reply = http.post("/inspect/ablate", json={"inputs": "abc", **fields})
    assert reply.status_code == 422
    assert sentence in reply.json()["error"]
