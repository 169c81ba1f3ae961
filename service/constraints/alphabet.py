"""The alphabet of a constraint: the characters of a model that texts may consist of."""

from collections.abc import Iterable
from functools import cached_property


class Alphabet:
    """A set of characters and, as in Python's `re`, its digits, letters and spaces in Unicode."""

    def __init__(self, members: Iterable[str]) -> None:
        self.members = frozenset(members)

    @cached_property
    def classes(self) -> dict[str, frozenset[str]]:
        r"""The members of `\d`, `\w` and `\s`, by letter."""
        return {
            "d": frozenset(filter(str.isdecimal, self.members)),
            "w": frozenset(c for c in self.members if c.isalnum() or c == "_"),
            "s": frozenset(filter(str.isspace, self.members)),
        }

    def between(self, first: str, last: str) -> frozenset[str]:
        """Return the characters from `first` to `last`, both included."""
        if ord(last) - ord(first) < len(self.members):
            return frozenset(map(chr, range(ord(first), ord(last) + 1))) & self.members
        return frozenset(c for c in self.members if first <= c <= last)
