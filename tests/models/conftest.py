"""A store of four models, and registries over it that load on demand."""

from collections.abc import Callable

import pytest

from service.models.registry import Registry, RegistryConfig
from service.models.residency import ResidencyConfig
from service.models.spec import ModelRef
from service.models.store import ModelStore, RegistryRecord
from tests.bundles import TINY, put_model
from tests.fakes.runtime import FakeFactory

SIZE_BYTES = 8 * TINY.parameters


@pytest.fixture
def factory() -> FakeFactory:
    return FakeFactory()


@pytest.fixture
def refs(tmp_path) -> dict[str, ModelRef]:
    """Four stored models; `d` is the default, and an empty record loads none of them."""
    found = {name: put_model(tmp_path, name) for name in "abcd"}
    RegistryRecord((), {"default": found["d"]}).write(tmp_path)
    return found


@pytest.fixture
def registry_of(tmp_path, factory, refs) -> Callable[..., Registry]:  # noqa: ARG001 (stored)
    """A registry that loads on demand, with room for `n` models and these times."""

    def make(n: float = 2, *, autoload: bool = True, sweep_s: float = 1.0, **times) -> Registry:
        config = RegistryConfig(
            int(n * SIZE_BYTES),
            autoload=autoload,
            sweep_s=sweep_s,
            residency=ResidencyConfig(**({"load_wait_s": 5.0} | times)),
        )
        return Registry(ModelStore(tmp_path), factory, config)

    return make
