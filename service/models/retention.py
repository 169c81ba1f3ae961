"""How long a model stays in memory, and which one leaves it when another needs the room."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from service.models.spec import ModelRef

FOREVER = -1.0


@dataclass(frozen=True, slots=True)
class Retention:
    """How long a model stays in memory when no request uses it."""

    pin: bool = False  # never evicted
    keep_alive_s: float = FOREVER  # after its last request; 0: none; -1: until its room is needed

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return a retention as the registry's record has it. Raises ValueError, KeyError."""
        pin, keep_alive_s = values["pin"], values["keep_alive_s"]
        is_time = isinstance(keep_alive_s, int | float) and not isinstance(keep_alive_s, bool)
        if (
            not isinstance(pin, bool)
            or not is_time
            or not (keep_alive_s >= 0 or keep_alive_s == -1)
        ):
            raise ValueError("`pin` is no boolean, or `keep_alive_s` is no time and not -1")
        return cls(pin, float(keep_alive_s))

    def to_json(self) -> dict[str, Any]:
        """Return it for the registry's record."""
        return {"pin": self.pin, "keep_alive_s": self.keep_alive_s}


@dataclass(frozen=True, slots=True)
class Resident:
    """What the choice of a victim reads of a model in memory. Times are monotonic."""

    ref: ModelRef
    size_bytes: int
    is_in_use: bool  # a request holds or awaits it, or a generation runs
    is_kept: bool  # pinned, or the default model
    loaded_s: float
    last_used_s: float


def choose_victims(
    residents: Iterable[Resident], needed_bytes: int, now_s: float, min_resident_s: float
) -> tuple[ModelRef, ...]:
    """Return the models to evict so that `needed_bytes` become free, or none if all do not suffice.

    The least recently used come first. A model in use or kept is never among them; one that was
    loaded less than `min_resident_s` ago only if the others do not suffice.
    """
    free = [each for each in residents if not each.is_in_use and not each.is_kept]
    free.sort(key=lambda each: (now_s - each.loaded_s < min_resident_s, each.last_used_s, each.ref))
    victims: list[ModelRef] = []
    for each in free:
        if needed_bytes <= 0:
            break
        victims.append(each.ref)
        needed_bytes -= each.size_bytes
    return tuple(victims) if needed_bytes <= 0 else ()


def kept_bytes(residents: Iterable[Resident]) -> int:
    """Return how many bytes no eviction can free."""
    return sum(each.size_bytes for each in residents if each.is_kept)
