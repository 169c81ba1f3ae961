"""Stores for the tests of sessions: one server per module, emptied before each test."""

from collections.abc import Iterator

import pytest

from tests.sessions.cluster import OwnCluster, own_cluster
from tests.sessions.valkey import SERVERS, OwnValkey, own_store


@pytest.fixture(scope="module", params=SERVERS)
def store_server(request, tmp_path_factory) -> Iterator[OwnValkey]:
    with own_store(tmp_path_factory.mktemp("store"), request.param) as own:
        yield own


@pytest.fixture
def store(store_server) -> OwnValkey:
    """As `valkey`, of each kind of server."""
    store_server.client.flushall()
    return store_server


@pytest.fixture(scope="module", params=SERVERS)
def cluster_server(request, tmp_path_factory) -> Iterator[OwnCluster]:
    with own_cluster(tmp_path_factory.mktemp("cluster"), request.param) as own:
        yield own


@pytest.fixture
def cluster(cluster_server) -> OwnCluster:
    """An empty cluster of three nodes, of each kind of server."""
    cluster_server.flush()
    return cluster_server
