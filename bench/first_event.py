"""The time to the first event of a stream."""

import time
from collections.abc import Mapping

import httpx2


def first_event_s(http: httpx2.Client, body: Mapping[str, object], n: int) -> float:
    """Return the seconds from a request of `n` characters to the first; read the others, too."""
    parameters = {"max_new_tokens": n, "do_sample": True}
    began_s = time.perf_counter()
    with http.stream("POST", "/generate_stream", json={**body, "parameters": parameters}) as reply:
        chunks = reply.iter_raw()
        next(chunks)
        elapsed_s = time.perf_counter() - began_s
        for _ in chunks:
            pass
    reply.raise_for_status()
    return elapsed_s
