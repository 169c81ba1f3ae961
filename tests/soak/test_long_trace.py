"""A trace of a million characters takes the memory of one of a hundred thousand."""

import pytest

from bench.tracing import peak_bytes, trace
from tests.api.conftest import new_home
from tests.process import serving


@pytest.mark.soak
@pytest.mark.timeout(1_200)
def test_a_trace_of_a_million_characters_streams_in_flat_memory(tmp_path):
    query = f"model=demo&cells={','.join(map(str, range(32)))}"
    with serving(new_home(tmp_path)) as server:
        trace(server.port, query, 20_000)  # what is allocated once
        _, short = peak_bytes(server.port, query, 100_000)
        _, long = peak_bytes(server.port, query, 1_000_000)
    assert long - short < 8 * 1024 * 1024
