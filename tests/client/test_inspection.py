"""The client's inspections against a running server."""

import json

import numpy as np
import pytest

from carousel_client import (
    Invalid,
    NotFound,
    SessionState,
    StreamBroken,
    UnexpectedResponse,
)
from carousel_client.records import TraceRecords
from carousel_client.request import Request
from tests.client.proxy import BreakingProxy, Cut

TEXT = "f(x) is (y). "


def streamed(kind, url: str, text: str, **more) -> tuple[list, dict]:
    async def read_async(client):
        stream = client.inspection.stream(text, **more)
        with pytest.raises(LookupError):
            _ = stream.head
        return [token async for token in stream], stream.head

    def read(client):
        stream = client.inspection.stream(text, **more)
        with pytest.raises(LookupError):
            _ = stream.head
        return [*stream], stream.head

    return kind.call(url, read_async if kind.name == "async" else read)


def test_statistics_of_cells(kind, server):
    text = TEXT * 10
    found = kind.call(server.url, lambda to: to.inspection.statistics(text, cells=[445]))
    [layer] = found.layers
    assert (found.model, found.token_count) == ("demo@1", len(text))
    assert [cell["cell"] for cell in layer["cells"]] == [445]
    assert layer["cells"][0]["cleared_by"][0]["text"] == "("


def test_a_streamed_trace_is_the_whole_one(kind, server, client):
    whole = client.inspect(TEXT, cells=[445, 2], signals=["c", "f"])
    tokens, head = streamed(
        kind, server.url, TEXT, cells=[445, 2], signals=["c", "f"], encoding="float32"
    )
    assert head["digest"] == whole.digest
    assert [(one.id, one.start, one.stop) for one in tokens] == [
        (one.id, one.start, one.stop) for one in whole.tokens
    ]
    assert tokens[0].logprob is None
    for name, rows in whole.layers[0].signals.items():
        exact = np.array([one.signals[f"layers.0.{name}"] for one in tokens], np.float32)
        assert exact.tobytes() == np.array(rows, np.float32).tobytes()
    session = client.sessions.create(text=TEXT[:4]).id
    rest, head = streamed(
        kind, server.url, TEXT[4:], session_id=session, cells=[445], signals=["f"], encoding="uint8"
    )
    low, high = head["layers"][0]["ranges"]["f"]
    near = [low + one.signals["layers.0.f"][0] * (high - low) / 255 for one in rest]
    exact = [row[0] for row in whole.layers[0].signals["f"]][4:]
    assert near == pytest.approx(exact, abs=0.003)
    with pytest.raises(Invalid, match="`cells` has 448"):
        streamed(kind, server.url, TEXT, cells=[448])
    with pytest.raises(NotFound):
        streamed(kind, server.url, TEXT, model="none")


def test_a_long_text_is_sent_before_the_trace_is_read(kind, server):
    """The client sends all of it, while the server has begun to send more than connections hold."""
    text = TEXT * 8_000
    tokens, _ = streamed(kind, server.url, text, cells=[*range(20)])
    assert len(tokens) == len(text)
    assert tokens[-1].stop == len(text)


def test_a_trace_that_breaks_off_never_looks_whole(kind, server):
    proxy = BreakingProxy(server.port)
    proxy.plan.append(Cut(b"\n", 30, 2))
    with pytest.raises(StreamBroken, match="broke off before its end"):
        streamed(kind, proxy.url, TEXT * 5_000, cells=[445])
    proxy.close()
    assert len(proxy.heads) == 1


def test_cells_are_found(kind, server):
    text = (TEXT + "and (some) more words; ") * 200
    found = kind.call(
        server.url,
        lambda to: to.inspection.cells(
            text, ["in_parentheses", {"name": "is", "match": "is"}], ablation=False
        ),
    )
    parentheses, own = found.finds
    assert (parentheses.property, parentheses.kind, own.property) == (
        "in_parentheses",
        "binary",
        "is",
    )
    assert parentheses.verdict in {"found", "free", "weak"}
    assert abs(parentheses.cells[0].r) > 0.6
    assert parentheses.cells[0].auc > 0.9
    assert parentheses.ablation == ()
    with pytest.raises(Invalid, match="a find needs at least 5000"):
        kind.call(server.url, lambda to: to.inspection.cells(TEXT, ["in_parentheses"]))


def test_ablation_and_influence(kind, server, client):
    text = TEXT * 20
    found = kind.call(
        server.url,
        lambda to: to.inspection.ablate(text, [[445], [2, 3]], where="in_parentheses"),
    )
    assert [one.cells for one in found.sets] == [(445,), (2, 3)]
    assert found.sets[0].bits_where > found.sets[0].bits_elsewhere
    assert found.where_count == 2 * 20 * 2
    held = kind.call(server.url, lambda to: to.inspection.ablate(text, [[445]], hold=0.5))
    assert held.sets[0].values == (0.5,)
    assert (held.where_count, held.sets[0].bits_where) == (None, None)
    one = kind.call(server.url, lambda to: to.inspection.influence(TEXT, of=3, back=2))
    assert (one.token.text, [token.text for token in one.tokens]) == (")", ["(", "x"])
    scored = client.score(TEXT, details=True).tokens[3]
    assert one.token.logprob == pytest.approx(scored.logprob, abs=1e-6)
    last = kind.call(server.url, lambda to: to.inspection.influence(TEXT))
    assert (last.token, last.of) == (None, len(TEXT))
    assert last.tokens[0].logprob_change is None


def test_a_steered_score(kind, server, client):
    steer = [{"cell": 445, "op": "set", "value": 0.5, "from": "prompt"}]
    plain = client.score(TEXT)
    steered = kind.call(server.url, lambda to: to.score(TEXT, steer=steer))
    assert steered.nats > plain.nats + 0.01
    assert (steered.tokens, plain.steer) == ((), None)
    assert steered.steer is not None
    with pytest.raises(Invalid, match="steer"):
        kind.call(server.url, lambda to: to.score(TEXT, steer=[{"cell": 448, "op": "freeze"}]))


HEAD = {"dtype": [["id", "<i4"], ["start", "<i8"], ["stop", "<i8"], ["logprob", "<f8"]]}


def fed(head: object, *pieces: bytes) -> list:
    records = TraceRecords(Request("POST", "/"), 1.0)
    assert records.start_response(200, {"content-type": "application/octet-stream"})
    line = json.dumps(head).encode() + b"\n"
    return [token for piece in (line[:3], line[3:], *pieces) for token in records.feed(piece)]


def test_a_steered_trace(kind, server, client):
    steer = [{"cell": 445, "op": "set", "value": 0.5}]
    whole = client.inspect(TEXT, cells=[445], signals=["c"], steer=steer)
    assert whole.steer is not None
    assert {row[0] for row in whole.layers[0].signals["c"]} == {0.5}
    named = {"cells": [445], "signals": ["c"], "steer": steer, "encoding": "float32"}
    tokens, head = streamed(kind, server.url, TEXT, **named)
    assert head["steer"] == whole.steer
    assert {one.signals["layers.0.c"][0] for one in tokens} == {0.5}
    assert client.inspect(TEXT, cells=[445]).steer is None


def test_a_session_of_a_server_that_knows_no_steering_is_not_steered():
    at = "2026-01-01T00:00:00+00:00"
    body = {"id": "a", "model": "m@1", "digest": "ab", "position": 1, "turn": 0, "seed": 1}
    body |= {"state_bytes": None, "created_at": at, "expires_at": at}
    assert not SessionState.from_json(body).steered
    assert SessionState.from_json(body | {"steered": True}).steered


def test_records_come_in_any_pieces():
    record = np.array([(3, 4, 5, -0.5)], "<i4,<i8,<i8,<f8").tobytes()
    content = record * 3
    whole = fed(HEAD | {"record_bytes": 28}, content)
    assert [(one.id, one.start, one.stop, one.logprob) for one in whole] == [(3, 4, 5, -0.5)] * 3
    pieces = [content[i : i + 1] for i in range(len(content))]
    assert fed(HEAD | {"record_bytes": 28}, *pieces) == whole


@pytest.mark.parametrize(
    "head", [{}, [], HEAD, HEAD | {"record_bytes": 27}, HEAD | {"dtype": [["id", "<i9"]]}]
)
def test_a_head_of_another_server_is_an_unexpected_response(head):
    with pytest.raises(UnexpectedResponse, match="is not one of Carousel's"):
        fed(head)
    with pytest.raises(UnexpectedResponse):
        TraceRecords(Request("POST", "/"), 1.0).start_response(200, {"content-type": "text/html"})
