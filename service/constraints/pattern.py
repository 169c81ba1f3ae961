"""Sets of texts: trees of characters, sequences, choices and repetitions, over one vocabulary.

A node without any text in it is `NOTHING`, and the constructors `sequence`, `choice` and `repeat`
see to it that `NOTHING` is never inside another node: what a vocabulary cannot spell is gone at
once.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Characters:
    """One character out of a set."""

    members: frozenset[str]


@dataclass(frozen=True, slots=True, eq=False)
class Sequence:
    """A text of each part, one after another; without parts the empty text."""

    parts: "tuple[Pattern, ...]"


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """A text of any option; without options no text at all."""

    options: "tuple[Pattern, ...]"


@dataclass(frozen=True, slots=True, eq=False)
class Repeat:
    """From `least` to `most` texts of a part; `most` None is without end."""

    part: "Pattern"
    least: int
    most: int | None


Pattern = Characters | Sequence | Choice | Repeat

NOTHING = Choice(())
EMPTY = Sequence(())


def characters(members: Iterable[str]) -> Pattern:
    """One character out of a set, which may be empty."""
    found = frozenset(members)
    return Characters(found) if found else NOTHING


def sequence(*parts: Pattern) -> Pattern:
    """Parts one after another."""
    if NOTHING in parts:
        return NOTHING
    kept = tuple(part for part in parts if part is not EMPTY)
    return kept[0] if len(kept) == 1 else Sequence(kept) if kept else EMPTY


def choice(*options: Pattern) -> Pattern:
    """Any one of the options."""
    kept = tuple(option for option in options if option is not NOTHING)
    return kept[0] if len(kept) == 1 else Choice(kept) if kept else NOTHING


def repeat(part: Pattern, least: int, most: int | None) -> Pattern:
    """From `least` to `most` times a part; `most` None is without end."""
    if most == 0 or part is EMPTY:
        return EMPTY
    if part is NOTHING:
        return NOTHING if least else EMPTY
    return part if least == most == 1 else Repeat(part, least, most)


def optional(part: Pattern) -> Pattern:
    """A part or the empty text."""
    return repeat(part, 0, 1)


def positions(pattern: Pattern) -> int:
    """How many characters a pattern has when all repetitions are written out.

    A bound of repetition counts as often as it allows, and what has no end once more than at least.
    """
    known: dict[int, int] = {}  # parts are shared, and a shared part is looked at once

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
