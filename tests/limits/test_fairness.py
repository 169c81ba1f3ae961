"""A server whose rows are all taken by endless streams still serves everybody else."""

import httpx2

from tests.api.conftest import new_home
from tests.limits.greedy import greedy_streams
from tests.process import serving

STREAMS = 300  # more than the table's 256 rows
LIMIT_S = 60.0  # of a machine that has much else to do; it was without end before


async def test_short_requests_are_served_beside_endless_streams_of_the_same_owner(tmp_path):
    with serving(new_home(tmp_path)) as server:
        async with (
            httpx2.AsyncClient(base_url=server.url, timeout=LIMIT_S) as client,
            greedy_streams(server.port, STREAMS) as greedy,
        ):
            asked = {"inputs": "ROMEO:", "parameters": {"max_new_tokens": 5, "seed": 1}}
            reply = await client.post("/generate", json=asked)
            assert reply.status_code == 200
            assert len(reply.json()["generated_text"]) == 5
            created = await client.post("/sessions", json={"text": "ROMEO:"})
            assert created.status_code == 201
            assert created.json()["position"] == 6
            scored = await client.post("/score", json={"inputs": "ROMEO:"})
            assert scored.status_code == 200
            seen = list(greedy.bytes_read)
            turn = await client.post("/generate", json=asked | {"session_id": created.json()["id"]})
            assert turn.status_code == 200
            for _ in range(4):
                await client.post("/generate", json=asked)
        assert sum(greedy.bytes_read) > sum(seen)  # the streams go on
    with serving(tmp_path) as server, httpx2.Client(base_url=server.url, timeout=LIMIT_S) as alone:
        assert alone.post("/generate", json=asked).json() == reply.json()
