"""Several members of one fleet in one event loop: real registries, and runtimes without a model."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

from service.fleet.config import FleetConfig
from service.fleet.fleet import Fleet
from service.fleet.fleet_store import FleetStore
from service.fleet.member import FleetMember
from service.fleet.report import ProcessReport
from service.models.registry import Registry, RegistryConfig
from service.models.spec import ModelRef
from service.models.store import ModelStore
from tests.fakes.runtime import FakeFactory

CONFIG = FleetConfig(
    look_s=0.02, lifetime_s=1.0, poll_s=0.01, wait_s=10.0, retry_s=0.2, again_s=0.1
)

A, B = ModelRef("a", 1), ModelRef("b", 1)


async def until(is_so: Callable[[], bool], limit_s: float = 10.0) -> None:
    end = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < end, "the condition does not hold"
        await asyncio.sleep(0.005)


@dataclass
class Process:
    """What one process has of the fleet."""

    member: FleetMember
    fleet: Fleet
    registry: Registry
    factory: FakeFactory
    is_open: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None

    @property
    def loaded(self) -> set[str]:
        return {str(model.ref) for model in self.registry.loaded()}

    @property
    def aliases(self) -> dict[str, str]:
        return {alias: str(ref) for alias, ref in self.registry.aliases.items()}

    def start(self) -> None:
        self.task = asyncio.create_task(self.fleet.run(self.is_open.set))

    async def freeze(self) -> None:
        """End it without a word, as a kill or a stopped machine does."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
            self.task = None


@dataclass
class World:
    """The processes of one store of models and one Valkey."""

    folder: Path
    url: str
    member_class: type[FleetMember] = FleetMember
    fleet_class: type[Fleet] = Fleet
    lifetime_s: float = CONFIG.lifetime_s
    config: FleetConfig = CONFIG
    processes: list[Process] = field(default_factory=list)

    def process(self, name: str, *, autoload: bool = False) -> Process:
        factory, config = FakeFactory(), RegistryConfig(autoload=autoload, keeps_record=False)
        registry = Registry(ModelStore(self.folder), factory, config)
        store = FleetStore(self.url, self.lifetime_s)
        member = self.member_class(ProcessReport(name), store, registry, self.config)
        fleet = self.fleet_class(member, store, registry, self.config)
        self.processes.append(Process(member, fleet, registry, factory))
        return self.processes[-1]

    async def started(self, name: str, *, autoload: bool = False) -> Process:
        process = self.process(name, autoload=autoload)
        process.start()
        await asyncio.wait_for(process.is_open.wait(), 10)
        return process


@contextlib.asynccontextmanager
async def world_of(folder: Path, url: str, **more: object) -> AsyncIterator[World]:
    world = World(folder, url, **more)  # type: ignore[arg-type]
    try:
        yield world
    finally:
        for process in world.processes:
            process.factory.may_go_on.set()
            await process.freeze()
            await process.fleet.close()
            await process.registry.close(0.0)
