"""What becomes of sessions and streams where their store crashes, hangs or fills up."""

import time

from tests.faults.client import said
from tests.faults.conftest import FIRST, until


def test_a_store_that_crashed_while_nobody_spoke_has_every_session(house, truth):
    session = house.session()
    assert house.ask(session, 300).status_code == 200
    house.store.kill()
    until(lambda: not house.is_ready)
    assert house.http.get("/health/live").status_code == 200
    alone = {"inputs": "The ", "parameters": {"max_new_tokens": 9}}
    assert house.http.post("/generate", json=alone).status_code == 200
    refused = house.ask(session, 9, "")
    assert (refused.status_code, refused.json()["error_type"]) == (503, "store_unavailable")
    assert refused.headers["retry-after"]
    house.store.start()
    until(lambda: house.is_ready)
    stream = house.turn(session, 300, "")
    stream.rest()
    assert said(stream) == truth[300:600]


def test_a_stream_goes_on_without_a_gap_where_the_store_is_back_soon(house, truth):
    stream = house.turn(house.session(), 20_000)
    stream.take(500)
    house.store.kill()
    house.store.start()
    stream.rest()
    assert said(stream) == truth[:20_000]


def test_a_stream_whose_store_stays_away_says_so_and_can_be_resumed(house, truth):
    session = house.session()
    stream = house.turn(session, 20_000)
    stream.take(500)
    house.store.kill()
    began_s = time.monotonic()
    stream.rest()
    assert time.monotonic() - began_s < 6
    assert stream.error["error_type"] == "store_unavailable"
    assert stream.error["resume"] == stream.last_id
    house.store.start()
    until(lambda: house.is_ready)
    more = house.follow(session, stream.last_id)
    more.rest()
    assert said(stream, more) == truth[:20_000]
    assert house.position(session) == FIRST + 20_000
