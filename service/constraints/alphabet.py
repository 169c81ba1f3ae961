"""The alphabet of a constraint: the characters of a model that texts may consist of."""

from collections.abc import Iterable
from functools import cached_property


class Alphabet:
    r"""A set of characters, with the members of the classes `\d`, `\w`, `\s` and `.`.

    The classes are those of Python's `re`: digits, letters and spaces of all of Unicode.
    """

    def __init__(self, members: Iterable[str]) -> None:
        self.members = frozenset(members)

    @cached_property
    def digits(self) -> frozenset[str]:
        r"""The members of `\d`."""
        return frozenset(filter(str.isdecimal, self.members))

    @cached_property
    def word(self) -> frozenset[str]:
        r"""The members of `\w`."""
        return frozenset(c for c in self.members if c.isalnum() or c == "_")

    @cached_property
    def spaces(self) -> frozenset[str]:
        r"""The members of `\s`."""
        return frozenset(filter(str.isspace, self.members))

    @cached_property
    def line(self) -> frozenset[str]:
        """The members of the dot: all but the line feed."""
        return self.members - {"\n"}

    def between(self, first: str, last: str) -> frozenset[str]:
        """Return the characters from `first` to `last`, both included."""
        if ord(last) - ord(first) < len(self.members):
            return frozenset(map(chr, range(ord(first), ord(last) + 1))) & self.members
        return frozenset(c for c in self.members if first <= c <= last)
