"""What changes the models that are served: in one process, or in every process of a store."""

from collections.abc import Callable
from typing import Protocol

from service.fleet.fleet_store import FleetView
from service.fleet.outcome import FleetOutcome
from service.models.bundle import Precision
from service.models.retention import Retention
from service.models.spec import ModelRef


class FleetChanges(Protocol):
    """Changes of models. `wait_s` is how long other processes are waited for; None: as configured.

    An outcome lists the processes that have not carried a change out by then. Each raises
    StoreUnavailable and StoreFull where there are other processes.
    """

    @property
    def process(self) -> str:
        """The name of this process, unique in its store."""

    async def run(self, on_open: Callable[[], None]) -> None:
        """Load the models of the start, call `on_open`, and go on until cancelled."""

    async def close(self) -> None:
        """Leave the others."""

    async def view(self) -> FleetView:
        """Return the wish and the live processes."""

    async def load(
        self,
        ref: ModelRef,
        precision: Precision | None = None,
        retention: Retention | None = None,
        *,
        evict: bool = False,
        wait_s: float | None = None,
    ) -> FleetOutcome:
        """Load a version in every process. Raises as Registry.load where none has loaded it."""

    async def unload(
        self, ref: ModelRef, drain_s: float | None = None, *, wait_s: float | None = None
    ) -> FleetOutcome:
        """Unload a version in every process. Raises ModelNotFound."""

    async def set_alias(
        self, alias: str, ref: ModelRef, *, wait_s: float | None = None
    ) -> FleetOutcome:
        """Point an alias at a version, once every process that shall load it has done so.

        Raises ModelNotFound, Validation; ModelNotReady where one has not within `wait_s`.
        """

    async def remove_alias(self, alias: str, *, wait_s: float | None = None) -> FleetOutcome:
        """Remove an alias. Raises ModelNotFound."""

    async def publish(self, ref: ModelRef, alias: str | None) -> None:
        """Load a trained model, and set its alias. Raises CarouselError. May be repeated."""

    async def delete(self, ref: ModelRef) -> None:
        """Delete a stored version. Raises ModelNotFound; ModelInUse if a process uses it."""
