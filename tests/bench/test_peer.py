"""The comparison with another server: equal requests, and a page that shows what was measured."""

import json

import pytest

from bench.__main__ import RESULTS
from bench.peer import CASES, table
from tests.process import ROOT


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_both_servers_are_asked_for_the_same(case):
    ours, theirs = case.ours("seed-int8@1"), case.theirs()
    assert len(ours) == len(theirs) == case.clients
    for a, b in zip(ours, theirs, strict=True):
        parameters = a.body["parameters"]
        assert a.body["inputs"] == b.body["prompt"]
        assert parameters["max_new_tokens"] == b.body["n_predict"] == a.characters == b.characters
        assert parameters["seed"] == b.body["seed"]
        assert parameters["temperature"] == b.body["temperature"]
        assert (a.events > 0) is (b.events > 0) is b.body["stream"] is case.is_streamed


def test_the_page_has_the_table_of_the_results():
    result = json.loads((RESULTS / "peer.json").read_text())
    page = (ROOT / "docs" / "explanation" / "beside-llama-server.md").read_text()
    assert table(result) in page
