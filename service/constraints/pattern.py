"""Patterns: trees of characters, sequences, choices and repetitions over one alphabet.

The pattern that matches no text is `NOTHING`. The constructors `sequence`, `choice` and `repeat`
never put it inside another node, so a pattern has no part that the alphabet cannot spell.
"""

from collections.abc import Iterable
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True, eq=False)
class Characters:
    """One character of a set."""

    members: frozenset[str]


@dataclass(frozen=True, slots=True, eq=False)
class Sequence:
    """The concatenation of a text of each part; the empty text if there are no parts."""

    parts: "tuple[Pattern, ...]"


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """A text of any option; no text if there are no options."""

    options: "tuple[Pattern, ...]"


@dataclass(frozen=True, slots=True, eq=False)
class Repeat:
    """From `least` to `most` texts of a part; `most` None is no limit."""

    part: "Pattern"
    least: int
    most: int | None


Pattern = Characters | Sequence | Choice | Repeat

NOTHING = Choice(())
EMPTY = Sequence(())


def characters(members: Iterable[str]) -> Pattern:
    """Return the pattern of one character of a set, which may be empty."""
    found = frozenset(members)
    return Characters(found) if found else NOTHING


def sequence(*parts: Pattern) -> Pattern:
    """Return the concatenation of parts."""
    if NOTHING in parts:
        return NOTHING
    kept = tuple(part for part in parts if part is not EMPTY)
    return kept[0] if len(kept) == 1 else Sequence(kept) if kept else EMPTY


def choice(*options: Pattern) -> Pattern:
    """Return the pattern of any one of the options."""
    kept = tuple(option for option in options if option is not NOTHING)
    return kept[0] if len(kept) == 1 else Choice(kept) if kept else NOTHING


def repeat(part: Pattern, least: int, most: int | None) -> Pattern:
    """Return a part repeated from `least` to `most` times; `most` None is no limit."""
    if most == 0 or part is EMPTY:
        return EMPTY
    if part is NOTHING:
        return NOTHING if least else EMPTY
    return part if least == most == 1 else Repeat(part, least, most)


def optional(part: Pattern) -> Pattern:
    """Return the pattern of a part or the empty text."""
    return repeat(part, 0, 1)


def positions(pattern: Pattern) -> int:
    """Return the number of characters of a pattern with its repetitions expanded.

    A repetition counts `most` times or, without a limit, `least` + 1 times.
    """
    known: dict[int, int] = {}  # a shared part is visited once

    def of(node: Pattern) -> int:
        if id(node) not in known:
            match node:
                case Characters():
                    known[id(node)] = 1
                case Sequence(nodes) | Choice(nodes):
                    known[id(node)] = 1 + sum(map(of, nodes))
                case Repeat(part, least, most):
                    known[id(node)] = of(part) * (least + 1 if most is None else most)
        return known[id(node)]

    return of(pattern)
