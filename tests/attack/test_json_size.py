"""What a JSON body costs is known before it is parsed, however it is cut into pieces."""

import json

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.json_size import JsonSize
from tests.api.conftest import new_home
from tests.process import serving

TEXTS = st.text(st.sampled_from('ab,:[]{}"\\\n\u00e9'), max_size=12)
VALUES = st.recursive(
    st.none() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=5),
    max_leaves=20,
)


def size_of(value: object) -> tuple[int, int]:
    """The containers of a value, and its commas and colons outside strings."""
    if not isinstance(value, list | dict):
        return 0, 0
    parts = list(value.values() if isinstance(value, dict) else value)
    sizes = [size_of(part) for part in parts]
    marks = max(0, len(parts) - 1) + (len(parts) if isinstance(value, dict) else 0)
    return 1 + sum(n for n, _ in sizes), marks + sum(n for _, n in sizes)


@given(VALUES, st.lists(st.integers(1, 7), min_size=1, max_size=5), st.booleans())
def test_the_count_is_that_of_the_parsed_value(value, cuts, is_ascii):
    left, size = json.dumps(value, ensure_ascii=is_ascii).encode(), JsonSize()
    while left:
        for cut in cuts:
            size.add(left[:cut])
            left = left[cut:]
    assert (size.containers, size.values) == size_of(value)


@pytest.fixture(scope="module")
def http(tmp_path_factory):
    with (
        serving(new_home(tmp_path_factory.mktemp("home"))) as server,
        httpx2.Client(base_url=server.url, timeout=60) as client,
    ):
        yield client


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs": [' + b"1," * 3_900_000 + b"1]}",
        b"{" + b",".join(b'"%x":1' % i for i in range(700_000)) + b"}",
        b'{"inputs": ' + b"[" * 500_000 + b"]" * 500_000 + b"}",
        b'{"inputs": [' + b"[]," * 2_500_000 + b"[]]}",
        b'{"inputs": [' + b'"",' * 2_600_000 + b'""]}',
    ],
    ids=["numbers", "keys", "depth", "lists", "texts"],
)
@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8"])
def test_a_body_of_millions_of_values_is_refused_before_it_is_parsed(http, body, kind):
    reply = http.post("/generate", content=body, headers={"Content-Type": kind})
    assert reply.status_code == 413
    assert reply.json()["error_type"] == "too_large"
    assert "the body has more than" in reply.json()["error"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16", "utf-32"])
def test_a_body_whose_values_cannot_be_counted_is_refused(http, encoding):
    body = ('["\u0122",' + "1," * 10_000 + "1]").encode(encoding)
    reply = http.post("/generate", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == 415
    assert "JSON is sent in UTF-8" in reply.json()["error"]


def test_what_clients_send_is_served(http):
    """A text of brackets, a prompt of a hundred thousand token ids, a long logit_bias."""
    for inputs in (',:[{"\\' * 160_000, "\\" * 999_999):
        body = {"inputs": inputs, "parameters": {"max_new_tokens": 1, "max_time": 0.1}}
        assert http.post("/generate", json=body).status_code == 200
    ids = [5] * 100_000
    assert http.post("/detokenize", json={"ids": ids}).status_code == 200
    body = {"model": "demo", "prompt": ids, "max_tokens": 1, "max_time": 0.1}
    body["logit_bias"] = {str(i): 0.5 for i in range(90)}
    reply = http.post("/v1/completions", json=body)
    assert reply.status_code == 200, reply.text
