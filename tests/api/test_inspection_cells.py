import pytest

from tests.api.test_inspection_ablation import UNSEEN


def find(http, text, properties, **fields):
    body = {"inputs": text, "properties": properties, **fields}
    reply = http.post("/inspect/cells", json=body, timeout=120)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_the_finds_on_the_bundled_model(http):
    """Cell 445 follows parentheses and is used to close them; no cell follows the line."""
    numbers = ("column", "line_of_paragraph")
    properties = ["in_parentheses", "in_double_quotes", "place_in_word", *numbers]
    found = find(http, UNSEEN, properties)
    assert found["held_out"] > 6_000
    finds = {one["property"]: one for one in found["finds"]}
    parentheses = finds["in_parentheses"]
    best = parentheses["cells"][0]
    assert (best["layer"], best["cell"]) == (0, 445)
    assert best["r"] < -0.6
    assert best["r_chosen_on"] < -0.6
    assert best["auc"] > 0.95
    assert parentheses["verdict"] == "used"
    assert 0.02 < parentheses["baselines"]["untrained"] < 0.4
    assert parentheses["baselines"]["null_95"] < 0.3
    use = next(use for use in parentheses["ablation"] if use["cell"] == 445)
    assert use["text"] == ")"
    assert use["bits"] >= 2.0
    assert use["rank"] == 1
    assert "Cell 445 of layer 0 follows in_parentheses" in parentheses["sentence"]
    quotes = finds["in_double_quotes"]
    assert quotes["cells"][0]["r"] * quotes["cells"][0]["r_chosen_on"] > 0
    place_in_word = finds["place_in_word"]["baselines"]  # an untrained network counts it, too
    assert min(place_in_word["untrained"], place_in_word["character"]) > 0.4
    for name in numbers:
        assert finds[name]["verdict"] in {"none", "not_confirmed", "free", "weak"}, finds[name]
        assert finds[name]["ablation"] == []


def test_properties_of_one_s_own_and_without_ablation(http):
    text = UNSEEN[:12_000]
    spans = [[i, i + 40] for i in range(0, 12_000 - 40, 80)]
    values = [float(i % 7) for i in range(len(text))]
    found = find(
        http,
        text,
        [
            {"name": "words of with", "match": "t[a-z]+"},
            {"name": "stripes", "spans": spans},
            {"name": "age", "values": values},
        ],
        ablation=False,
    )
    matched, stripes, age = found["finds"]
    assert matched["hindsight"] is stripes["hindsight"] is True
    assert stripes["verdict"] == age["verdict"] == "none"
    assert (stripes["kind"], age["kind"]) == ("binary", "number")
    assert stripes["ablation"] == []


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"inputs": "abc"}, "the text has 3 tokens; a find needs at least 5000"),
        ({"inputs": "a" * 100_000}, "at most 89285 tokens"),
        ({"inputs": "a" * 6_000}, "in_parentheses changes 0 times in the part"),
        ({"properties": ["z"]}, "'z' is no property"),
        ({"properties": ["column", "column"]}, "`properties` has a name twice"),
        ({"properties": []}, "properties"),
    ],
)
def test_what_cannot_be_searched_is_refused_by_name(http, fields, sentence):
    body = {"inputs": UNSEEN[:6_000], "properties": ["in_parentheses"], **fields}
    reply = http.post("/inspect/cells", json=body)
    assert reply.status_code == 422
    assert sentence in reply.json()["error"]
