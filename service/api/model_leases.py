"""The leases of models that one request holds until its reply has been sent."""

from typing import Protocol

MODEL_LEASES = "model_leases"  # in the request's state


class Lease(Protocol):
    """Keeps something in use."""

    def release(self) -> None:
        """Use it no longer."""


class ModelLeases:
    """Holds a request's models in memory until its reply, or stream, has ended."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: list[Lease] = []

    def add(self, lease: Lease) -> None:
        """Hold a lease."""
        self._held.append(lease)

    def release(self) -> None:
        """End all leases, the latest first."""
        while self._held:
            self._held.pop().release()
