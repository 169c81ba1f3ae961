"""A pattern as a nondeterministic automaton: a list of instructions over character classes.

A vocabulary may have 65,536 characters, but a pattern distinguishes only a few dozen kinds of them.
Each kind is one class, and all automata are over classes, so their size does not depend on Unicode.

Source: Thompson, "Regular expression search algorithm", 1968; instructions as in Pike's VM.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.constraints.pattern import Characters, Choice, Pattern, Repeat
from service.errors import Validation

ACCEPT, SPLIT = -2, -1
"""Instructions that read no character: accept the text; continue at two instructions."""

MAX_SET_CELLS = 4 * 1024 * 1024
"""The largest product of a pattern's sets and classes."""


@dataclass(frozen=True, slots=True, eq=False)
class NFA:
    """Instructions: number i reads a character of the set `takes[i]` and continues at i + 1.

    A SPLIT continues at i + `first[i]` and i + `second[i]`, an ACCEPT nowhere. The classes are 1,
    2, …; a character that is in no set has class 0.
    """

    takes: npt.NDArray[np.int32]  # (instructions,): a set, or SPLIT, or ACCEPT
    first: npt.NDArray[np.int32]  # (instructions,)
    second: npt.NDArray[np.int32]  # (instructions,)
    sets: npt.NDArray[np.bool_]  # (sets, classes + 1): whether a class is in a set
    class_of: dict[str, int]

    def token_classes(self, vocabulary: Sequence[str | None]) -> npt.NDArray[np.int32]:
        """Return the class of each token, (vocabulary,) int32."""
        return np.array([self.class_of.get(token or "", 0) for token in vocabulary], np.int32)


_Code = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int32]]


def nfa_of(pattern: Pattern) -> NFA:
    """Convert a pattern. Raises Validation if it has too many kinds of characters."""
    index_of = {members: i for i, members in enumerate(_sets(pattern))}
    class_of = _classes(index_of)
    n_classes = max(class_of.values(), default=0)
    if len(index_of) * n_classes > MAX_SET_CELLS:
        raise Validation(
            f"the pattern has {len(index_of)} sets and {n_classes} kinds of characters; sets times "
            f"kinds may be {MAX_SET_CELLS}, so use fewer different characters"
        )
    sets = np.zeros((len(index_of), n_classes + 1), np.bool_)
    for members, i in index_of.items():
        sets[i, [class_of[character] for character in members]] = True
    takes, first, second = _joined([_code(pattern, index_of, {}), _instruction(ACCEPT, 0, 0)])
    return NFA(takes, first, second, sets, class_of)


def _sets(pattern: Pattern) -> Iterable[frozenset[str]]:
    """Return the sets of a pattern, each once, in the order of the pattern."""
    found: dict[frozenset[str], None] = {}
    seen: set[int] = set()
    todo = [pattern]
    while todo:
        node = todo.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        match node:
            case Characters(members):
                found.setdefault(members)
            case Repeat(part):
                todo.append(part)
            case Choice(nodes):
                todo += reversed(nodes)
            case _:
                todo += reversed(node.parts)
    return found


def _classes(sets: Iterable[frozenset[str]]) -> dict[str, int]:
    """Partition the characters into the largest classes that no set divides."""
    of: dict[str, int] = {}
    n = 0
    for members in sets:
        parts: dict[int, int] = {}  # an old class → the class of its characters in this set
        for character in members:
            before = of.get(character, 0)
            if before not in parts:
                n += 1
                parts[before] = n
            of[character] = parts[before]
    names: dict[int, int] = {}  # numbered by first character: a set has no order
    for character in sorted(of):
        names.setdefault(of[character], len(names) + 1)
    return {character: names[old] for character, old in of.items()}


def _code(node: Pattern, index_of: dict[frozenset[str], int], known: dict[int, _Code]) -> _Code:
    """Return a node's instructions, which continue after their last one at the end of a text."""
    if id(node) not in known:
        match node:
            case Characters(members):
                found = _instruction(index_of[members], 0, 0)
            case Repeat(part, least, most):
                found = _repeated(_code(part, index_of, known), least, most)
            case Choice(nodes):
                found = _either([_code(option, index_of, known) for option in nodes])
            case _:
                found = _joined([_code(part, index_of, known) for part in node.parts])
        known[id(node)] = found
    return known[id(node)]


def _instruction(takes: int, first: int, second: int) -> _Code:
    return np.array([takes], np.int32), np.array([first], np.int32), np.array([second], np.int32)


def _joined(codes: Sequence[_Code]) -> _Code:
    if not codes:
        return np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.int32)
    takes, first, second = (np.concatenate(column) for column in zip(*codes, strict=True))
    return takes, first, second


def _either(codes: Sequence[_Code]) -> _Code:
    left = sum(len(takes) + 2 for takes, _, _ in codes) - 2  # the last option has no SPLIT
    parts = []
    for code in codes[:-1]:
        n = len(code[0])
        left -= n + 2
        parts += [_instruction(SPLIT, 1, n + 2), code, _instruction(SPLIT, left + 1, left + 1)]
    return _joined([*parts, codes[-1]])


def _repeated(code: _Code, least: int, most: int | None) -> _Code:
    n = len(code[0])
    if most is None:
        if least == 0:
            return _joined([_instruction(SPLIT, 1, n + 2), code, _instruction(SPLIT, -n, 1)])
        return _joined([*[code] * least, _instruction(SPLIT, -n, 1)])
    optional = _joined([_instruction(SPLIT, 1, n + 1), code])
    count = most - least
    takes, first, second = _joined([*[code] * least, *[optional] * count])
    ends = len(takes) - (n + 1) * np.arange(count, 0, -1, dtype=np.int32)
    second[ends] = len(takes) - ends  # without one repetition there is none of the following
    return takes, first, second
