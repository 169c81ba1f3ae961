"""A store for the tests of train jobs."""

from collections.abc import Iterator

import pytest

from tests.sessions.valkey import OwnValkey


@pytest.fixture(scope="module")
def valkey(tmp_path_factory) -> Iterator[OwnValkey]:
    own = OwnValkey(tmp_path_factory.mktemp("valkey"))
    own.start()
    yield own
    own.close()
