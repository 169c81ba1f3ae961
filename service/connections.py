"""The open connections: how many there are, in total and of one address, and which can go."""

import ipaddress
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from service.settings import Network

LOG_INTERVAL_S = 10.0
REFUSALS = 256
"""Connections beyond the limit that may be open while they get their refusal."""

_log = logging.getLogger(__name__)


class Connection(Protocol):
    """What can be closed to make room for another connection."""

    def give_way(self) -> None:
        """Close the connection; it has no request that is being answered."""


@dataclass(slots=True)
class _Group:
    """Connections of one address, or all; the waiting ones in the order in which they began to."""

    limit: int
    n_open: int = 0
    waiting: dict[Connection, None] = field(default_factory=dict)


class Connections:
    """Counts connections against the limits, and closes waiting ones to make room for new ones.

    A connection waits while it has no request that is being answered: it is idle, or its next
    head is incomplete. Belongs to the event loop.
    """

    def __init__(
        self,
        limit: int,
        limit_per_address: int,
        trusted_proxies: Iterable[Network] = (),
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """A trusted proxy's connections are those of many clients: only `limit` applies."""
        self._all, self._limit_per_address = _Group(limit), limit_per_address
        self._trusted_proxies, self._clock_s = tuple(trusted_proxies), clock_s
        self._by_address: dict[str, _Group] = {}
        self._groups: dict[Connection, tuple[_Group, ...]] = {}
        self._addresses: dict[Connection, str] = {}
        self._logged_s = -LOG_INTERVAL_S
        self._n_ending = 0  # closed to make room, or refused, and not gone yet

    @property
    def n_open(self) -> int:
        """The connections that count against the limit."""
        return self._all.n_open

    @property
    def can_refuse(self) -> bool:
        """Whether a refusal may be sent; without it a connection is cut."""
        return self._n_ending < REFUSALS

    def admit(self, connection: Connection, address: str) -> str | None:
        """Count a new connection, which waits; return why there is no room for it, or None."""
        groups = [self._all]
        if not self._is_trusted(address):
            own = self._by_address.get(address) or _Group(self._limit_per_address)
            groups.append(own)
        for group in reversed(groups):
            if group.n_open >= group.limit:
                of_whom = "" if group is self._all else f" of {address}"
                self._log_full(f"{group.n_open} connections{of_whom} are open")
                if not group.waiting:
                    self._n_ending += 1
                    return f"{group.n_open} connections{of_whom} are open, and each is answered"
                self._make_room(next(iter(group.waiting)))
        if len(groups) > 1:
            self._by_address[address] = groups[1]
        self._groups[connection], self._addresses[connection] = tuple(groups), address
        for group in groups:
            group.n_open += 1
            group.waiting[connection] = None
        return None

    def wait(self, connection: Connection) -> None:
        """Record that a connection has no request that is being answered."""
        for group in self._groups.get(connection, ()):
            group.waiting[connection] = None

    def work(self, connection: Connection) -> None:
        """Record that a connection has a request that is being answered."""
        for group in self._groups.get(connection, ()):
            group.waiting.pop(connection, None)

    def leave(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        if not self._forget(connection):
            self._n_ending -= 1

    def _make_room(self, connection: Connection) -> None:
        self._forget(connection)
        self._n_ending += 1
        connection.give_way()

    def _forget(self, connection: Connection) -> bool:
        self.work(connection)
        groups, address = self._groups.pop(connection, ()), self._addresses.pop(connection, "")
        for group in groups:
            group.n_open -= 1
        if len(groups) > 1 and not groups[1].n_open:
            self._by_address.pop(address, None)
        return bool(groups)

    def _is_trusted(self, address: str) -> bool:
        if not self._trusted_proxies:
            return False
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(found in network for network in self._trusted_proxies)

    def _log_full(self, what: str) -> None:
        now_s = self._clock_s()
        if now_s - self._logged_s >= LOG_INTERVAL_S:
            self._logged_s = now_s
            _log.warning(
                "%s, which is the limit: idle connections are closed for new ones, and where there"
                " is none a new one gets a 503; see CAROUSEL_MAX_CONNECTIONS,"
                " CAROUSEL_MAX_CONNECTIONS_PER_ADDRESS and the limit of open files (ulimit -n)",
                what,
            )
