"""The terminal without a server, where what a server loads is in Redis."""

import asyncio

import pytest

from service.cli.model_changes import ModelChanges
from service.errors import Validation
from service.fleet.config import FleetConfig
from service.fleet.fleet_store import FleetStore
from service.fleet.wish import Wish
from service.models.store import ModelStore
from tests.bundles import put_model


async def write_a_wish(url: str) -> None:
    store = FleetStore(url, FleetConfig().lifetime_s)
    await store.change(None, Wish().again())
    await store.close()


@pytest.fixture
def changes(tmp_path, valkey, monkeypatch) -> ModelChanges:
    put_model(tmp_path, "a")
    monkeypatch.setenv("CAROUSEL_REDIS_URL", valkey.url)
    return ModelChanges(ModelStore(tmp_path), None, is_offline=True)


def test_the_first_start_reads_the_folder(changes):
    assert "loads a@1" in changes.load("a")


def test_a_change_that_no_start_would_read_is_refused(changes, valkey):
    asyncio.run(write_a_wish(valkey.url))
    for change in (changes.load, changes.unload):
        with pytest.raises(Validation, match="in the Redis of CAROUSEL_REDIS_URL; start a server"):
            change("a")
