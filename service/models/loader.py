"""Loading of a stored version: its size in memory, and its bundle read and compiled in threads."""

import asyncio
import logging
from collections.abc import Callable
from typing import Generic

from service.errors import BadCheckpoint, CarouselError
from service.models.bundle import Bundle, Precision
from service.models.device import WantedDevice, served_precision
from service.models.loaded_model import LoadedModel, R
from service.models.spec import ModelRef, ModelSpec
from service.models.store import ModelStore

_log = logging.getLogger(__name__)


class ModelLoader(Generic[R]):
    """Loads bundles of a store. `make` compiles one to a runtime, in a thread."""

    def __init__(
        self,
        store: ModelStore,
        make: Callable[[Bundle, Precision], R],
        size_of: Callable[[ModelSpec, Precision], int],
        device: WantedDevice = "auto",
    ) -> None:
        """`size_of` is an upper bound of the memory of a model in a precision, in bytes."""
        self._store, self._make, self._size_of = store, make, size_of
        self._device: WantedDevice = device

    def size_bytes(self, ref: ModelRef, precision: Precision | None) -> int:
        """Return how much memory a version needs, by its manifest; 0 if that is damaged."""
        manifest = self._store.manifest(ref)
        if manifest is None:
            return 0
        chosen = precision or served_precision(self._device, manifest.precision)
        return self._size_of(ModelSpec.from_json(manifest.architecture), chosen)

    async def load(
        self, ref: ModelRef, precision: Precision | None, size_bytes: int
    ) -> LoadedModel[R]:
        """Read and compile a version; without a precision, in that of its manifest or device.

        Raises ModelNotFound, BadCheckpoint, Validation.
        """
        try:
            bundle = await asyncio.to_thread(self._store.read, ref)
            recorded = bundle.manifest.precision
            precision = precision or served_precision(self._device, recorded)
            runtime = await asyncio.to_thread(self._make, bundle, precision)
        except CarouselError:
            raise
        except Exception as error:
            _log.exception("%s cannot be compiled", ref)
            raise BadCheckpoint(f"{ref} cannot be compiled here; the log has the error") from error
        return LoadedModel(
            bundle.spec, bundle.tokenizer, bundle.manifest, precision, runtime, size_bytes
        )


def parameter_bytes(spec: ModelSpec, precision: Precision) -> int:  # noqa: ARG001 (see `size_of`)
    """Return an upper bound of a model's weights: in float32, and the program's copy."""
    return 2 * 4 * spec.parameters
