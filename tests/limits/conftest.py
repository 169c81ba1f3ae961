import pytest

from tests.keys.conftest import valkey  # noqa: F401 (a fixture)
from tests.sessions.valkey import OwnValkey


@pytest.fixture
def store(valkey: OwnValkey) -> OwnValkey:  # noqa: F811
    """A store that is empty before each test."""
    valkey.client.flushall()
    return valkey
