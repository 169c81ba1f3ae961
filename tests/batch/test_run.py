"""The run of a batch: order, the number of lines in flight, and calls that are repeated."""

import asyncio
import io
import json

import pytest

from service.batch.call import RouteCall, RouteReply
from service.batch.line import LineFormat, LineReader
from service.batch.run import RunConfig, rows_of
from service.errors import StoreUnavailable


def lines(n: int):
    source = b"".join(b'{"inputs": "%d"}\n' % i for i in range(n))
    return iter(LineReader(io.BytesIO(source), LineFormat()))


def inputs_of(call: RouteCall) -> int:
    return int(json.loads(call.body)["inputs"])


async def collected(n: int, answer, **config) -> list[dict]:
    return [json.loads(row) async for row in rows_of(lines(n), answer, RunConfig(**config))]


async def test_rows_have_the_order_of_the_lines_whenever_they_are_answered():
    async def answer(call: RouteCall) -> RouteReply:
        await asyncio.sleep(0.001 * (inputs_of(call) * 7 % 10))
        return RouteReply(200, call.body)

    rows = await collected(100, answer, in_flight=16)
    assert [row["line"] for row in rows] == list(range(1, 101))
    assert [int(row["response"]["body"]["inputs"]) for row in rows] == list(range(100))


async def test_many_lines_are_in_flight_and_no_more_than_allowed():
    running = most = 0
    first_may_end = asyncio.Event()
    ended = []

    async def answer(call: RouteCall) -> RouteReply:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await (first_may_end.wait() if inputs_of(call) == 0 else asyncio.sleep(0))
        running -= 1
        ended.append(inputs_of(call))
        if len(ended) == 30:  # all but the first that the window has room for
            first_may_end.set()
        return RouteReply(200, b"{}")

    rows = await asyncio.wait_for(collected(200, answer, in_flight=8, max_lines=31), 20)
    assert (len(rows), most) == (200, 8)


@pytest.mark.parametrize(("limit", "most"), [({"max_lines": 20}, 20), ({"max_bytes": 300}, 20)])
async def test_no_more_lines_are_in_memory_than_allowed_while_one_is_answered(limit, most):
    n_read = 0
    may_end = asyncio.Event()

    def counted():
        nonlocal n_read
        for line in lines(200):
            n_read += 1
            yield line

    async def answer(call: RouteCall) -> RouteReply:
        if inputs_of(call) == 0:
            await may_end.wait()
        return RouteReply(200, b"{}")

    rows = rows_of(counted(), answer, RunConfig(in_flight=8, **limit))
    first = asyncio.ensure_future(anext(rows))
    for _ in range(1_000):
        await asyncio.sleep(0)
    assert n_read == most  # ten of 15 bytes, ten of 16
    may_end.set()
    assert len([await first, *[row async for row in rows]]) == 200


async def test_a_full_engine_is_asked_again_and_an_error_is_not():
    asked = dict.fromkeys(range(3), 0)
    statuses = {0: (429, 429, 200), 1: (503, 200), 2: (422,)}

    async def answer(call: RouteCall) -> RouteReply:
        i = inputs_of(call)
        status = statuses[i][asked[i]]
        asked[i] += 1
        return RouteReply(status, b'{"error": "no", "error_type": "e"}')

    rows = await collected(3, answer)
    assert [row["response"]["status_code"] for row in rows] == [200, 200, 422]
    assert asked == {0: 3, 1: 2, 2: 1}


async def test_a_model_that_stays_away_is_an_error_of_the_line():
    async def answer(_: RouteCall) -> RouteReply:
        return RouteReply(503, b'{"error": "away", "error_type": "model_not_ready"}')

    (row,) = await collected(1, answer, unavailable_s=0.1)
    assert row["error"]["code"] == "model_not_ready"


async def test_what_is_in_flight_is_given_up_when_the_run_fails():
    cancelled = 0

    async def answer(call: RouteCall) -> RouteReply:
        nonlocal cancelled
        if inputs_of(call) == 0:
            await asyncio.sleep(0.01)
            raise StoreUnavailable("gone")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled += 1
            raise
        raise AssertionError

    with pytest.raises(StoreUnavailable):
        await collected(20, answer, in_flight=8)
    assert cancelled in {7, 8}  # the next line takes the place of the first
