from collections.abc import Callable

import pytest

from service.models.store import RegistryRecord
from tests.bundles import put_model
from tests.fleet.world import A, world_of


@pytest.fixture
def world(tmp_path, valkey) -> Callable[..., object]:
    """A world over two stored models, of which `a` is loaded and the default."""
    put_model(tmp_path, "a")
    put_model(tmp_path, "b")
    RegistryRecord((A,), {"default": A}).write(tmp_path)
    return lambda **more: world_of(tmp_path, valkey.url, **more)
