"""Changes of the models of every process of a store: the wish is written, and all carry it out."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from service.errors import ModelInUse, ModelNotReady, StoreUnavailable
from service.fleet.config import FleetConfig
from service.fleet.fleet_store import FleetStore, FleetView
from service.fleet.member import FleetMember
from service.fleet.outcome import FleetOutcome, outcome_of, serving, why_not_ready
from service.fleet.report import ProcessReport
from service.fleet.wish import Wish
from service.models.bundle import Precision
from service.models.registry import Registry
from service.models.retention import Retention
from service.models.spec import ModelRef

_MAX_TRIES = 100


class Fleet:
    """Changes the wish, and waits for the processes. One event loop only."""

    def __init__(
        self,
        member: FleetMember,
        store: FleetStore,
        registry: Registry[Any],
        config: FleetConfig = FleetConfig(),  # noqa: B008 (frozen)
    ) -> None:
        """`member` is this process, `registry` its models."""
        self._member, self._store, self._registry = member, store, registry
        self._config = config

    @property
    def process(self) -> str:
        """The name of this process, unique in its store."""
        return self._member.name

    async def run(self, on_open: Callable[[], None]) -> None:
        """Load the wish, call `on_open`, and carry it out until cancelled."""
        await self._member.run(on_open)

    async def close(self) -> None:
        """Leave the others."""
        await self._member.leave()

    async def view(self) -> FleetView:
        """Return the wish and the live processes. Raises StoreUnavailable."""
        wish, reports = await self._member.view()
        return FleetView(wish, tuple(reports))

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
        self._registry.refresh_if_readable()
        self._registry.check_load(ref, retention)
        wish = await self._change(lambda old: old.with_load(ref, precision, retention, evict=evict))
        outcome = await self._wait(wish, ref, wait_s)
        self._raise_if_all_failed(outcome, ref)
        return outcome

    async def unload(
        self, ref: ModelRef, drain_s: float | None = None, *, wait_s: float | None = None
    ) -> FleetOutcome:
        """Unload a version in every process. Raises ModelNotFound."""
        self._registry.refresh_if_readable()
        self._registry.check_stored(ref)
        wish = await self._change(lambda old: old.with_unload(ref, drain_s))
        return await self._wait(wish, None, wait_s)

    async def set_alias(
        self, alias: str, ref: ModelRef, *, wait_s: float | None = None
    ) -> FleetOutcome:
        """Point an alias at a version, once every process that shall load it has done so.

        Raises ModelNotFound, Validation; ModelNotReady where one has not within `wait_s`.
        """
        self._registry.refresh_if_readable()
        self._registry.check_alias(alias)
        self._registry.check_stored(ref)
        until_s = self._deadline(wait_s)
        while True:
            wish, reports = await self._member.view()
            barrier = self._barrier(wish, reports, ref)
            if barrier.is_everywhere:
                # Only if nothing has changed since: then the barrier still holds as it is written.
                written = await self._store.change(wish, wish.with_alias(alias, ref))
                if written is not None:
                    self._member.adopt(written)
                    return await self._wait(written, None, wait_s)
            elif _now_s() >= until_s or barrier.is_settled:
                raise ModelNotReady(_not_moved(alias, ref, barrier))
            await self._pause(reports)

    async def remove_alias(self, alias: str, *, wait_s: float | None = None) -> FleetOutcome:
        """Remove an alias. Raises ModelNotFound."""
        wish = await self._change(lambda old: old.without_alias(alias))
        return await self._wait(wish, None, wait_s)

    async def publish(self, ref: ModelRef, alias: str | None) -> None:
        """Load a trained model, and set its alias. Raises CarouselError.

        Every process may call it: it is loaded once, and one that was unloaded since stays so.
        """
        self._registry.refresh_if_readable()
        self._registry.check_stored(ref)
        wish = await self._member.look()
        if ref not in wish.models:
            wish = await self._change(lambda old: old if ref in old.models else old.with_load(ref))
        outcome = await self._wait(wish, ref, None)
        self._raise_if_all_failed(outcome, ref)
        if alias is not None and wish.aliases.get(alias) != ref:
            await self.set_alias(alias, ref)

    async def delete(self, ref: ModelRef) -> None:
        """Delete a stored version, or forget a wanted one whose files are gone.

        Raises ModelNotFound; ModelInUse if a process uses it.
        """
        self._registry.refresh_if_readable()
        wish, reports = await self._member.view()
        is_gone = ref in wish.models and not self._registry.is_stored(ref)
        if not is_gone:
            self._registry.check_stored(ref)
        for report in reports:
            if report.process != self.process and str(ref) in report.ready:
                raise ModelInUse(
                    f"{ref} cannot be deleted: the process {report.process} has loaded it; "
                    "unload it first"
                )
        if is_gone:
            await self._change(lambda old: old.with_unload(ref).without_model(ref))
            return
        self._registry.check_unused(ref)
        await self._change(lambda old: old.without_model(ref))
        await self._registry.delete(ref)
        await self._change(Wish.again)  # the others look into the folder again

    # -- the wish

    async def _change(self, make: Callable[[Wish], Wish]) -> Wish:
        """Write what `make` makes of the wish, again where another change came between."""
        for _ in range(_MAX_TRIES):
            wish = await self._member.look()
            new = make(wish)
            if new is wish:
                return new
            written = await self._store.change(wish, new)
            if written is not None:
                self._member.adopt(written)
                return written
        raise StoreUnavailable("the wish changes all the time; try again in a moment")

    async def _wait(self, wish: Wish, ref: ModelRef | None, wait_s: float | None) -> FleetOutcome:
        """Wait until every process has reached a wish, or until the time is over."""
        until_s = self._deadline(wait_s)
        while True:
            _, reports = await self._member.view()
            outcome = outcome_of(wish.revision, serving(reports, self.process), ref)
            if outcome.is_settled or _now_s() >= until_s:
                return outcome
            await self._pause(reports)

    async def _pause(self, reports: Sequence[ProcessReport]) -> None:
        """Wait before the reports are read again: longer where there are many."""
        await asyncio.sleep(max(self._config.poll_s, len(reports) / self._config.reports_per_s))

    def _barrier(self, wish: Wish, reports: Sequence[ProcessReport], ref: ModelRef) -> FleetOutcome:
        """Return which processes lack a version; none if it is not to be loaded at all."""
        if not wish.wants(ref):
            return FleetOutcome()
        digest = self._registry.digests().get(ref)
        concerned = serving(reports, self.process)
        return why_not_ready(concerned, ref, wish.models[ref].load_revision, digest)

    def _raise_if_all_failed(self, outcome: FleetOutcome, ref: ModelRef) -> None:
        own = self._member.errors.get(ref)
        if (
            own is not None
            and outcome.is_settled
            and len(outcome.lacking) == len(outcome.processes)
        ):
            raise own

    def _deadline(self, wait_s: float | None) -> float:
        return _now_s() + (self._config.wait_s if wait_s is None else wait_s)


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _not_moved(alias: str, ref: ModelRef, barrier: FleetOutcome) -> str:
    lacking = "; ".join(f"{each.process}: {each.problem}" for each in barrier.lacking[:5])
    return (
        f"the alias {alias!r} is not moved to {ref}, which is not ready in "
        f"{len(barrier.lacking)} of {len(barrier.processes)} processes ({lacking})"
    )
