"""Stores for the tests of the fleet: one server per module, emptied before each test."""

from collections.abc import Iterator

import pytest

from tests.sessions.valkey import OwnValkey, own_store


@pytest.fixture(scope="module")
def valkey_server(tmp_path_factory) -> Iterator[OwnValkey]:
    with own_store(tmp_path_factory.mktemp("valkey")) as own:
        yield own


@pytest.fixture
def valkey(valkey_server) -> OwnValkey:
    """An empty Valkey, which a test may kill and start again."""
    valkey_server.client.flushall()
    return valkey_server
