"""A fair queue: keys wait in a line of their owner's, and the owners take turns (round robin)."""

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K")


@dataclass(slots=True)
class _Line(Generic[K]):
    """The keys of one owner: those that have not run yet, and those that were preempted."""

    new: dict[K, None] = field(default_factory=dict)
    preempted: dict[K, None] = field(default_factory=dict)
    is_turn_of_preempted: bool = False

    def pop(self) -> K:
        """Remove the next key: new and preempted ones by turns, so neither waits for all others."""
        from_preempted = self.preempted and (self.is_turn_of_preempted or not self.new)
        source = self.preempted if from_preempted else self.new
        self.is_turn_of_preempted = not from_preempted
        key = next(iter(source))
        del source[key]
        return key


class FairQueue(Generic[K]):
    """A queue in which an owner's keys cost another owner's at most one place each turn.

    Every operation takes constant time. Not safe for several threads.
    """

    def __init__(self) -> None:
        self._lines: OrderedDict[str, _Line[K]] = OrderedDict()  # the next owner first
        self._owners: dict[K, str] = {}

    def __len__(self) -> int:
        return len(self._owners)

    @property
    def owners(self) -> Collection[str]:
        """The owners that wait, the next one first."""
        return self._lines.keys()

    def waiting_of(self, owner: str) -> int:
        """How many keys of an owner wait."""
        line = self._lines.get(owner)
        return 0 if line is None else len(line.new) + len(line.preempted)

    def push(self, owner: str, key: K, *, is_new: bool = True) -> None:
        """Add a key that does not wait yet at the end of its owner's line.

        One that has run before waits in a line of its own (`is_new` false).
        """
        line = self._lines.setdefault(owner, _Line())
        (line.new if is_new else line.preempted)[key] = None
        self._owners[key] = owner

    def pop(self) -> K:
        """Remove and return the next key; its owner goes to the end of the owners."""
        owner, line = next(iter(self._lines.items()))
        key = line.pop()
        del self._owners[key]
        if self.waiting_of(owner):
            self._lines.move_to_end(owner)
        else:
            del self._lines[owner]
        return key

    def remove(self, key: K) -> bool:
        """Remove a key wherever it waits; False if it does not wait."""
        owner = self._owners.pop(key, None)
        if owner is None:
            return False
        line = self._lines[owner]
        line.new.pop(key, None)
        line.preempted.pop(key, None)
        if not self.waiting_of(owner):
            del self._lines[owner]
        return True
