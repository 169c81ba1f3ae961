"""Reserved capacity in an engine's queue, for generations that are submitted later."""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Self

NOTHING_RESERVED: Mapping[str, int] = MappingProxyType({})


class Reservation:
    """Reserved capacity in an engine's queue, for generations that are submitted later.

    `drain` waits for open reservations; leaving the `with` block releases one.
    """

    def __init__(self, n: int, owner: str, on_free: Callable[["Reservation"], None]) -> None:
        self.n, self.owner, self._on_free = n, owner, on_free

    def free(self) -> None:
        """Release the reserved capacity. Does nothing the second time."""
        self._on_free(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.free()


class Reservations:
    """The open reservations of one engine. For the event loop."""

    def __init__(self) -> None:
        self._open: set[Reservation] = set()

    def __bool__(self) -> bool:
        return bool(self._open)

    @property
    def by_owner(self) -> Mapping[str, int]:
        """How many generations each owner has reserved."""
        if not self._open:
            return NOTHING_RESERVED
        counts = Counter[str]()
        for reservation in self._open:
            counts[reservation.owner] += reservation.n
        return counts

    def add(self, n: int, owner: str, on_free: Callable[[], None]) -> Reservation:
        """Open a reservation; `on_free` is called when it is released."""
        reservation = Reservation(n, owner, partial(self._free, on_free))
        self._open.add(reservation)
        return reservation

    def _free(self, on_free: Callable[[], None], reservation: Reservation) -> None:
        self._open.discard(reservation)
        on_free()
