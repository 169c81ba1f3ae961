"""One server for all client libraries."""

from collections.abc import Iterator

import httpx2
import pytest

from tests.api.conftest import new_home
from tests.process import Server, serving


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(new_home(tmp_path_factory.mktemp("clients"))) as running:
        yield running


@pytest.fixture(scope="session")
def http(server: Server) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.url, timeout=30) as client:
        yield client
