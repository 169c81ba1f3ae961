import base64
import json
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import numpy as np
import pytest
from safetensors.numpy import load

TEXT = "def area(width, height):\n    return (width * (height + 1))\n" * 3
CELLS = [445, 363, 0]


def inspect(http, inputs=TEXT, **fields):
    reply = http.post("/inspect", json={"inputs": inputs, **fields})
    assert reply.status_code == 200, reply.text
    return reply.json()


def arrays(layer) -> dict[str, np.ndarray]:
    return {name: np.array(rows, np.float32) for name, rows in layer["signals"].items()}


def test_the_equations_of_the_lstm_hold_in_the_reply_alone(http):
    found = inspect(http, cells=CELLS)
    (layer,) = found["layers"]
    assert (layer["layer"], layer["cell"], layer["units"]) == (0, "lstm", 448)
    assert layer["use_bias"] is True
    assert "reset_after" not in layer  # of a GRU alone
    assert layer["cells"] == CELLS
    assert found["model"] == "demo@1"
    assert found["characters"] == found["token_count"] == len(TEXT)
    at, before = arrays(layer), {name: np.float32(row) for name, row in layer["before"].items()}
    assert not before["c"].any()  # the zero state
    c_before = np.concatenate([before["c"][None], at["c"][:-1]])
    expected = at["f"] * c_before + at["i"] * at["g"]
    assert (np.abs(expected - at["c"]) <= 2 * np.spacing(np.abs(at["c"]))).all()
    np.testing.assert_allclose(at["o"] * np.tanh(at["c"]), at["h"], rtol=0, atol=1e-6)
    for gate in "ifo":
        assert ((at[gate] >= 0) & (at[gate] <= 1)).all()
        assert at[gate].std() > 0.01
    assert (np.abs(at["g"]) <= 1).all()


def test_tokens_are_those_of_the_score(http):
    found = inspect(http, cells=[0], signals=["c"], top_n_tokens=3)["tokens"]
    scored = http.post("/score", json={"inputs": TEXT}).json()["tokens"]
    assert [{name: token[name] for name in ("id", "text", "logprob")} for token in found] == scored
    assert [TEXT[token["start"] : token["stop"]] for token in found] == [*TEXT]
    assert found[0]["top_tokens"] == []
    for token in found[1:]:
        top = [one["logprob"] for one in token["top_tokens"]]
        assert len(top) == 3
        assert top == sorted(top, reverse=True)
        assert token["logprob"] <= top[0]
        if token["logprob"] >= top[2]:
            assert token["id"] in {one["id"] for one in token["top_tokens"]}


def test_a_session_is_read_on_and_not_changed(http):
    first, rest = TEXT[:50], TEXT[50:]
    whole = inspect(http, cells=CELLS)
    session = http.post("/sessions", json={"text": first}).json()
    found = inspect(http, rest, cells=CELLS, session_id=session["id"])
    (of_whole,), (of_rest,) = whole["layers"], found["layers"]
    for name, rows in of_whole["signals"].items():
        assert of_rest["signals"][name] == rows[50:], name
    assert of_rest["before"]["c"] == of_whole["signals"]["c"][49]
    assert [token["logprob"] for token in found["tokens"]] == [
        token["logprob"] for token in whole["tokens"][50:]
    ]
    after = http.get(f"/sessions/{session['id']}").json()
    assert after["position"] == session["position"]


def test_arrays_and_numbers_are_the_same_values(http):
    numbers = inspect(http, cells=CELLS, signals=["f", "c", "tanh_c", "write", "kept"])
    reply = http.post(
        "/inspect",
        json={"inputs": TEXT, "cells": CELLS, "signals": ["f", "c", "tanh_c", "write", "kept"]},
        headers={"Accept": "application/octet-stream"},
    )
    assert reply.headers["content-type"] == "application/octet-stream"
    tensors, size = load(reply.content), int.from_bytes(reply.content[:8], "little")
    metadata = json.loads(reply.content[8 : 8 + size])["__metadata__"]
    assert metadata["text"] == TEXT
    assert metadata["digest"] == numbers["digest"]
    assert metadata["precision"] == numbers["precision"]
    (layer,) = numbers["layers"]
    for name, rows in arrays(layer).items():
        assert tensors[f"layers.0.{name}"].tobytes() == rows.tobytes(), name
    assert tensors["layers.0.cells"].tolist() == CELLS
    assert [*tensors["ids"]] == [token["id"] for token in numbers["tokens"]]
    assert math.isnan(tensors["logprobs"][0])
    at = {name.removeprefix("layers.0."): array for name, array in tensors.items()}
    assert (at["kept"] + at["write"] == at["c"]).all()


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"cells": [448]}, "`cells` has 448; those of layer 0 are 0 to 447"),
        ({"cells": [3, 3]}, "`cells` has 3 twice"),
        ({"cells": []}, "`cells` is empty: leave it out"),
        ({"layers": [1]}, "`layers` has 1; the model's recurrent layers are 0 to 0"),
        ({"signals": ["z"]}, "whose signals are i, f, g, o, c, h, write, kept, tanh_c"),
        ({"inputs": "a" * 500}, "500 tokens with 2688 numbers each are 1344000"),
        ({"inputs": "a" * 500}, "a reply has at most 200000: set `encoding`"),
        ({"inputs": "a" * 5_000, "encoding": "float16"}, "a reply has at most 8000000: ask for"),
        ({"encoding": "uint8"}, "c of layer 0 has no bounds"),
        ({"format": "safetensors", "encoding": "numbers"}, "a safetensors file has arrays"),
        ({"inputs": "a😀"}, "no token for '😀'"),
        ({"top_n_tokens": 21}, "top_n_tokens"),
        ({"session_id": "nobody"}, "nobody"),
    ],
)
def test_what_cannot_be_shown_is_refused_by_name(http, fields, sentence):
    reply = http.post("/inspect", json={"inputs": "abc", **fields})
    assert reply.status_code == (404 if "session_id" in fields else 422)
    assert sentence in reply.json()["error"]


def test_bytes_stand_for_the_range_that_is_given(http):
    exact = inspect(http, cells=CELLS, signals=["f", "tanh_c"])["layers"][0]["signals"]
    for encoding, error in [("float32", 0.0), ("float16", 5e-4), ("uint8", 1.01 / 255)]:
        packed = inspect(http, cells=CELLS, signals=["f", "tanh_c"], encoding=encoding)
        for name, rows in exact.items():
            found = packed["layers"][0]["signals"][name]
            content = np.frombuffer(base64.b64decode(found["base64"]), found["encoding"])
            values = content.reshape(found["shape"]).astype(np.float64)
            if encoding == "uint8":
                low, high = found["range"]
                values = low + values * (high - low) / 255
            assert np.abs(values - np.array(rows, np.float32)).max() <= error, (encoding, name)


def test_an_owner_has_two_inspections_at_a_time_and_generation_goes_on(http, server):
    long = {"inputs": "a" * 50_000, "cells": [1], "signals": ["f"], "encoding": "float16"}
    is_over = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(_post_until, is_over, server.url, long) for _ in range(2)]
        try:
            until = time.monotonic() + 60
            while time.monotonic() < until:
                third = http.post("/inspect", json={"inputs": "abc", "cells": [1]})
                if third.status_code == 429:
                    break
            assert third.status_code == 429, third.text
            assert "2 inspections of yours run or wait; the limit is 2" in third.json()["error"]
            assert third.json()["error_type"] == "overloaded"
            body = {"inputs": "The ", "parameters": {"max_new_tokens": 5}}
            assert http.post("/generate", json=body).status_code == 200
        finally:
            is_over.set()
        assert all(one.result() <= {200, 429} and 200 in one.result() for one in both)


def _post_until(is_over: threading.Event, url: str, body: dict) -> set[int]:
    """Send it again and again; return the statuses of the replies."""
    statuses = set()
    with httpx2.Client(base_url=url, timeout=180) as client:
        while not (is_over.is_set() and 200 in statuses):
            statuses.add(client.post("/inspect", json=body).status_code)
    return statuses


def test_statistics_say_what_a_cell_does(http):
    text = "A call (with its arguments) is here.\n  It may be (nested (twice)) there.\n" * 20
    reply = http.post("/inspect/statistics", json={"inputs": text, "cells": [445, 3]})
    assert reply.status_code == 200, reply.text
    found = reply.json()
    assert found["token_count"] == len(text)
    assert found["digest"] == inspect(http, "a", cells=[0])["digest"]
    (layer,) = found["layers"]
    assert layer["keeping_gate"] == "f"
    parentheses, other = layer["cells"]
    assert (parentheses["cell"], other["cell"]) == (445, 3)
    assert [fact["text"] for fact in parentheses["cleared_by"]][:1] == ["("]
    assert parentheses["cleared_by"][0]["count"] == text.count("(")
    assert 'cleared by "("' in parentheses["sentence"]
    trace = arrays(inspect(http, text, cells=[445], signals=["c", "f"])["layers"][0])
    assert parentheses["mean"] == pytest.approx(trace["c"].mean(), rel=1e-5)
    assert parentheses["gates"]["f"]["above"] == pytest.approx((trace["f"] > 0.9).mean(), rel=1e-6)
    assert sum(parentheses["histogram"]) == len(text)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"cells": [448]}, "`cells` has 448"),
        ({"low": 1.5}, "low"),
        ({"inputs": "a😀"}, "no token for '😀'"),
        ({"session_id": "a"}, "`session_id` is not a known field"),
    ],
)
def test_what_has_no_statistics_is_refused_by_name(http, fields, sentence):
    reply = http.post("/inspect/statistics", json={"inputs": "abc", **fields})
    assert reply.status_code == 422
    assert sentence in reply.json()["error"]


STEER = [{"cell": 445, "op": "set", "value": -0.7, "from": 4}]


def test_a_steered_text_shows_what_the_steered_model_does(http):
    plain, found = inspect(http, cells=CELLS), inspect(http, cells=CELLS, steer=STEER)
    held, free = arrays(found["layers"][0]), arrays(plain["layers"][0])
    assert set(held["c"][4:, 0]) == {np.float32(-0.7)}
    np.testing.assert_allclose(held["c"][:4], free["c"][:4], atol=1e-4)
    assert np.abs(held["c"][4:, 1:] - free["c"][4:, 1:]).max() > 1e-3
    np.testing.assert_allclose(held["o"] * np.tanh(held["c"]), held["h"], rtol=0, atol=1e-6)
    scored = http.post("/score", json={"inputs": TEXT, "steer": STEER}).json()
    assert [
        {name: token[name] for name in ("id", "text", "logprob")} for token in found["tokens"]
    ] == scored["tokens"]
    assert found["steer"] == scored["steer"]
    assert "steer" not in plain


def test_a_steered_gate_is_the_one_that_is_shown(http):
    steer = [{"cell": 363, "gate": "f", "op": "set", "value": 0.25}]
    (layer,) = inspect(http, cells=CELLS, steer=steer)["layers"]
    assert set(arrays(layer)["f"][:, 1]) == {np.float32(0.25)}


def test_a_steered_session_is_read_on_as_it_is_scored(http):
    session = http.post("/sessions", json={"text": TEXT[:50]}).json()
    body = {"inputs": "", "session_id": session["id"]}
    parameters = {"max_new_tokens": 5, "steer": [STEER[0] | {"from": "generated"}]}
    http.post("/generate", json=body | {"parameters": parameters}).raise_for_status()
    steer = [{"cell": 445, "op": "add", "value": 0.5, "from": 54}]
    named = {"session_id": session["id"], "steer": steer}
    found = inspect(http, " (so)", cells=[445], **named)
    scored = http.post("/score", json={"inputs": " (so)"} | named).json()
    assert [token["logprob"] for token in found["tokens"]] == [
        token["logprob"] for token in scored["tokens"]
    ]
    early = http.post("/inspect", json={"inputs": "a"} | named | {"steer": STEER})
    assert early.status_code == 422
    assert "which the session has read" in early.text


def test_a_streamed_steered_text_is_the_whole_one(http):
    (layer,) = inspect(http, cells=CELLS, signals=["c"], steer=STEER)["layers"]
    query = {"cells": "445,363,0", "signals": "c", "encoding": "float32"}
    text = {"content": TEXT, "headers": {"content-type": "text/plain"}}
    params = query | {"steer": json.dumps(STEER)}
    reply = http.post("/inspect/text", params=params, **text).raise_for_status()
    line, _, records = reply.content.partition(b"\n")
    head = json.loads(line)
    kind = np.dtype([(name, code, *map(tuple, shape)) for name, code, *shape in head["dtype"]])
    assert np.frombuffer(records, kind)["layers.0.c"].tolist() == arrays(layer)["c"].tolist()
    assert head["steer"]["cells"][0]["cell"] == 445
    for wrong in ("{", "[{}]", '[{"cell": 445, "op": "paint"}]'):
        refused = http.post("/inspect/text", params=query | {"steer": wrong}, **text)
        assert refused.status_code == 422, wrong
        assert refused.json()["error_type"] == "validation"


def test_the_file_of_a_steered_text_says_so(http):
    body = {"inputs": TEXT, "cells": [445], "steer": STEER, "format": "safetensors"}
    reply = http.post("/inspect", json=body).raise_for_status()
    size = int.from_bytes(reply.content[:8], "little")
    metadata = json.loads(reply.content[8 : 8 + size])["__metadata__"]
    assert json.loads(metadata["steer"])["cells"][0]["from"] == 4
