from collections.abc import Callable, Iterator

import httpx2
import pytest

from tests.api.conftest import new_home
from tests.metrics.exposition import Scrape
from tests.process import Server, free_port, serving


@pytest.fixture(scope="session")
def metrics_port() -> int:
    return free_port()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, metrics_port: int) -> Iterator[Server]:
    """A server with a listener for its metrics."""
    home = new_home(tmp_path_factory.mktemp("home"))
    with serving(home, CAROUSEL_METRICS_PORT=str(metrics_port)) as running:
        yield running


@pytest.fixture(scope="session")
def http(server: Server) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture
def scrape(server: Server, metrics_port: int) -> Callable[[], Scrape]:  # noqa: ARG001 (it runs)
    return lambda: Scrape.at(f"http://127.0.0.1:{metrics_port}/metrics")
