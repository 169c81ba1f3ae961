"""Changes of the models of a process that shares its store with no other."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from service.fleet.fleet_store import FleetView
from service.fleet.outcome import FleetOutcome
from service.fleet.report import ProcessPhase, ProcessReport
from service.models.bundle import Precision
from service.models.registry import Registry
from service.models.retention import Retention
from service.models.spec import ModelRef

_DONE = FleetOutcome()


class LoneProcess:
    """Changes the registry of this process, whose record is the file in the folder of models."""

    def __init__(
        self, process: ProcessReport, registry: Registry[Any], is_draining: Callable[[], bool]
    ) -> None:
        """`process` has its name, and where it is."""
        self.process, self._report, self._registry = process.process, process, registry
        self._is_draining = is_draining
        self._is_open = False

    async def run(self, on_open: Callable[[], None]) -> None:
        """Load the models of the record."""
        await self._registry.open()
        self._is_open = True
        on_open()

    async def close(self) -> None:
        """Do nothing: there are no others."""

    async def view(self) -> FleetView:
        """Return this process alone."""
        phase = ProcessPhase.SERVING if self._is_open else ProcessPhase.STARTING
        phase = ProcessPhase.DRAINING if self._is_draining() else phase
        ready = {str(ref): digest for ref, digest in self._registry.digests().items()}
        return FleetView(None, (replace(self._report, phase=phase, ready=ready),))

    async def load(
        self,
        ref: ModelRef,
        precision: Precision | None = None,
        retention: Retention | None = None,
        *,
        evict: bool = False,
        wait_s: float | None = None,  # noqa: ARG002 (there are no others)
    ) -> FleetOutcome:
        """Load a version. Raises as Registry.load."""
        await self._registry.load(ref, precision, retention, evict=evict)
        return _DONE

    async def unload(
        self,
        ref: ModelRef,
        drain_s: float | None = None,
        *,
        wait_s: float | None = None,  # noqa: ARG002 (there are no others)
    ) -> FleetOutcome:
        """Unload a version. Raises ModelNotFound."""
        await self._registry.unload(ref, drain_s)
        return _DONE

    async def set_alias(
        self,
        alias: str,
        ref: ModelRef,
        *,
        wait_s: float | None = None,  # noqa: ARG002 (there are no others)
    ) -> FleetOutcome:
        """Point an alias at a version. Raises ModelNotFound, Validation."""
        self._registry.set_alias(alias, ref)
        return _DONE

    async def remove_alias(
        self,
        alias: str,
        *,
        wait_s: float | None = None,  # noqa: ARG002 (there are no others)
    ) -> FleetOutcome:
        """Remove an alias. Raises ModelNotFound."""
        self._registry.remove_alias(alias)
        return _DONE

    async def publish(self, ref: ModelRef, alias: str | None) -> None:
        """Load a trained model, and set its alias. Raises CarouselError."""
        self._registry.refresh_if_readable()
        await self._registry.load(ref)
        if alias is not None:
            self._registry.set_alias(alias, ref)

    async def delete(self, ref: ModelRef) -> None:
        """Delete a stored version. Raises ModelNotFound; ModelInUse if it is used."""
        self._registry.refresh_if_readable()
        await self._registry.delete(ref)
