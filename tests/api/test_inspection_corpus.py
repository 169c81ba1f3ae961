"""Inspections of a stored text give what they give of the same text in the request."""

import pytest

from tests.api.test_inspection import TEXT
from tests.api.test_inspection_text import PLAIN, trace

LONG = TEXT * 40
WAYS = {
    "/inspect": {"cells": [445], "signals": ["c"], "encoding": "float32"},
    "/inspect/statistics": {"cells": [445]},
    "/inspect/ablate": {"cells": [[445]], "where": "in_parentheses"},
    "/inspect/cells": {"properties": ["in_parentheses"], "ablation": False},
    "/inspect/influence": {"of": 60},
}


@pytest.fixture(scope="module")
def corpus(http):
    reply = http.post("/corpora", params={"name": "area"}, content=LONG, headers=PLAIN)
    assert reply.status_code == 201, reply.text
    return reply.json()["id"]


@pytest.mark.parametrize("route", WAYS)
def test_a_stored_text_is_read_as_one_that_is_sent(http, corpus, route):
    sent = http.post(route, json={"inputs": LONG, **WAYS[route]}, timeout=60)
    stored = http.post(route, json={"corpus_id": corpus, **WAYS[route]}, timeout=60)
    assert sent.status_code == stored.status_code == 200, stored.text
    assert stored.json() == sent.json()


def test_a_stored_text_is_streamed_as_one_that_is_sent(http, corpus):
    params = {"cells": "445", "signals": "c,f"}
    head, sent = trace(http, LONG.encode(), **params)
    assert (head, sent.tobytes()) == (
        (found := trace(http, b"", corpus_id=corpus, **params))[0],
        found[1].tobytes(),
    )


@pytest.mark.parametrize("route", WAYS)
def test_what_is_no_text_is_refused(http, corpus, route):
    for fields in ({}, {"inputs": "abc", "corpus_id": corpus}):
        reply = http.post(route, json={**WAYS[route], **fields})
        assert reply.status_code == 422
        assert "exactly one of `inputs` and `corpus_id`" in reply.json()["error"]
    reply = http.post(route, json={**WAYS[route], "corpus_id": "0" * 32})
    assert (reply.status_code, reply.json()["error_type"]) == (404, "corpus_not_found")


def test_a_long_stored_text_is_for_the_stream_alone(http):
    content = "ab" * 500_001
    made = http.post("/corpora", params={"name": "long"}, content=content, headers=PLAIN).json()
    reply = http.post("/inspect/statistics", json={"corpus_id": made["id"], "cells": [0]})
    assert reply.status_code == 422
    assert "has 1000002 characters; a text has at most 1000000" in reply.json()["error"]
    missing = http.post("/inspect/text", params={"corpus_id": "0" * 32})
    assert missing.status_code == 404
