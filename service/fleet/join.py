"""How a process becomes one of those that share a store, or stays alone."""

import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.fleet.changes import FleetChanges
from service.fleet.config import FleetConfig
from service.fleet.fleet import Fleet
from service.fleet.fleet_store import FleetStore
from service.fleet.lone_process import LoneProcess
from service.fleet.member import FleetMember
from service.fleet.report import ProcessReport
from service.models.registry import Registry


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """One process of a server: its name, unique in its store, and where it is."""

    index: int = 0
    token: str = field(default_factory=lambda: secrets.token_hex(3))
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    keeps_record: bool = False  # in the folder of models, beside the wish in the store

    listens_late: bool = False  # when its models are loaded: it takes the place of another one

    @property
    def name(self) -> str:
        """The name, which says nothing of the machine."""
        return f"{self.index}-{self.token}"


def join_fleet(
    redis_url: str | None,
    registry: Registry[Any],
    is_draining: Callable[[], bool],
    process: ServerProcess,
    folder: Path,
) -> FleetChanges:
    """Return what changes the models of this process, and of the others that share its store.

    Without a `redis_url` its store is its own. `folder` is that of the models.
    """
    empty = ProcessReport(process.name, host=process.host, pid=process.pid)
    if redis_url is None:
        return LoneProcess(empty, registry, is_draining)
    config = FleetConfig()
    store = FleetStore(redis_url, config.lifetime_s)
    member = FleetMember(empty, store, registry, config, is_draining)
    if process.keeps_record:
        member.on_reached = lambda wish: wish.record().write(folder)
    return Fleet(member, store, registry, config)
