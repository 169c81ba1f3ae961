"""Reserved capacity in an engine's queue, for generations that are submitted later."""

from collections import Counter
from collections.abc import Callable
from typing import Self


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

    def __init__(self, on_free: Callable[[], None]) -> None:
        """`on_free` is called after each one that is released."""
        self._open: set[Reservation] = set()
        self._on_free = on_free

    def __bool__(self) -> bool:
        return bool(self._open)

    @property
    def by_owner(self) -> Counter[str]:
        """How many generations each owner has reserved."""
        counts = Counter[str]()
        for reservation in self._open:
            counts[reservation.owner] += reservation.n
        return counts

    def add(self, n: int, owner: str) -> Reservation:
        """Open a reservation."""
        reservation = Reservation(n, owner, self._free)
        self._open.add(reservation)
        return reservation

    def _free(self, reservation: Reservation) -> None:
        self._open.discard(reservation)
        self._on_free()
