"""What a request gives as a property of its text: a name, matches, spans or values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from service.constraints.compiler import compile_constraint
from service.constraints.constraint import DEAD, START
from service.constraints.spec import regex
from service.errors import Validation
from service.inspection.properties import PROPERTIES, Values

LONGEST_MATCH = 1_000
"""Characters of a match: a longer one is not found."""


@dataclass(frozen=True, slots=True)
class Label:
    """The value of a property after each character of a text."""

    name: str
    kind: Literal["binary", "number"]
    values: Values
    has_hindsight: bool = False  # whether a value may depend on what comes later

    def at(self, stops: npt.NDArray[np.int64]) -> Values:
        """The values after tokens, from where the text of each stops."""
        return self.values[np.maximum(stops - 1, 0)]


def named_label(name: str, text: str) -> Label:
    """Return a property that every text has. Raises Validation."""
    found = PROPERTIES.get(name)
    if found is None:
        raise Validation(
            f"{name[:40]!r} is no property; there are {', '.join(PROPERTIES)}, or give one of your "
            "own by `match`, `spans` or `values`"
        )
    return Label(name, found.kind, found.values(text))


def matched_label(name: str, pattern: str, text: str) -> Label:
    """Mark what a regular expression matches, the longest from each place on. Raises Validation.

    Takes a time that is linear in the text's length.
    """
    alphabet = sorted(set(text))
    constraint = compile_constraint(regex(pattern), alphabet)
    table, ends = constraint.next_state, constraint.distance == 0
    index = {one: i for i, one in enumerate(alphabet)}
    classes = constraint.token_class[np.array([index[one] for one in text])]
    longest = np.zeros(len(text), np.int64)
    places = np.arange(len(text))
    states = np.full(len(text), START)
    for k in range(LONGEST_MATCH):
        fits = places + k < len(text)
        places, states = places[fits], states[fits]
        states = table[states, classes[places + k]]
        lives = states != DEAD
        places, states = places[lives], states[lives]
        if not len(places):
            break
        longest[places[ends[states]]] = k + 1
    values, place = np.zeros(len(text)), 0
    while place < len(text):
        values[place : place + longest[place]] = 1.0
        place += max(1, int(longest[place]))
    return Label(name, "binary", values, has_hindsight=True)


def spanned_label(name: str, spans: Sequence[Sequence[int]], text: str) -> Label:
    """Mark the characters from each span's first up to its second number. Raises Validation."""
    values = np.zeros(len(text))
    for span in spans:
        if len(span) != 2 or not 0 <= span[0] < span[1] <= len(text):
            raise Validation(
                f"`spans` has {[*span][:4]}: give two places from 0 to {len(text)}, the first less "
                "than the second",
                "spans",
            )
        values[span[0] : span[1]] = 1.0
    return Label(name, "binary", values, has_hindsight=True)


def given_label(name: str, values: Sequence[float], text: str) -> Label:
    """Take a number for each character. Raises Validation."""
    if len(values) != len(text):
        raise Validation(
            f"`values` has {len(values)} numbers, and the text has {len(text)} characters: give "
            "one for each",
            "values",
        )
    array = np.array(values, np.float64)
    kind: Literal["binary", "number"] = "binary" if {*array.tolist()} <= {0.0, 1.0} else "number"
    return Label(name, kind, array, has_hindsight=True)
