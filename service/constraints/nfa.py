"""A pattern as a nondeterministic automaton: numbered instructions over classes of characters.

A vocabulary may have 65,536 characters; a pattern tells a few dozen kinds of them apart. Each kind
becomes one class, and what follows is over classes: its size has nothing to do with Unicode.

Source: Thompson, "Regular expression search algorithm", 1968, as a program of Pike's machine.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.constraints.pattern import Characters, Choice, Pattern, Repeat
from service.errors import Validation

ACCEPT, SPLIT = -2, -1
"""Instructions that take no character: the text may end; go on at both places."""

MAX_SET_CELLS = 4 * 1024 * 1024
"""Sets of a pattern times classes at most."""


@dataclass(frozen=True, slots=True, eq=False)
class NFA:
    """Instruction i takes a character of set `takes[i]` and goes on at i + 1, or takes none.

    A SPLIT goes on at i + `first[i]` and i + `second[i]`, an ACCEPT nowhere. The classes are 1,
    2, …; a character that no set has is in class 0.
    """

    takes: npt.NDArray[np.int32]  # (instructions,): a set, or SPLIT, or ACCEPT
    first: npt.NDArray[np.int32]  # (instructions,)
    second: npt.NDArray[np.int32]  # (instructions,)
    sets: npt.NDArray[np.bool_]  # (sets, classes + 1): whether a set has a class
    class_of: dict[str, int]

    def token_classes(self, vocabulary: Sequence[str | None]) -> npt.NDArray[np.int32]:
        """The class of every token, (vocabulary,) int32."""
        return np.array([self.class_of.get(token or "", 0) for token in vocabulary], np.int32)


_Code = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int32]]


def nfa_of(pattern: Pattern) -> NFA:
    """The program of a pattern.

    Raises:
        Validation: its sets tell too many kinds of characters apart.

    """
    places = {members: i for i, members in enumerate(_sets(pattern))}
    class_of = _classes(places)
    n_classes = max(class_of.values(), default=0)
    if len(places) * n_classes > MAX_SET_CELLS:
        raise Validation(
            f"the pattern has {len(places)} sets that tell {n_classes} kinds of characters apart; "
            f"sets times kinds may be {MAX_SET_CELLS}, so ask for fewer different characters"
        )
    sets = np.zeros((len(places), n_classes + 1), np.bool_)
    for members, i in places.items():
        sets[i, [class_of[character] for character in members]] = True
    takes, first, second = _joined([_code(pattern, places, {}), _instruction(ACCEPT, 0, 0)])
    return NFA(takes, first, second, sets, class_of)


def _sets(pattern: Pattern) -> Iterable[frozenset[str]]:
    """The sets of a pattern, each once, in the order they are written."""
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
    """Cut all characters into the largest classes that no set divides."""
    of: dict[str, int] = {}
    n = 0
    for members in sets:
        parts: dict[int, int] = {}  # a class before this set → the one of its characters in it
        for character in members:
            before = of.get(character, 0)
            if before not in parts:
                n += 1
                parts[before] = n
            of[character] = parts[before]
    names: dict[int, int] = {}  # by each one's first character: the order of a set is anything
    for character in sorted(of):
        names.setdefault(of[character], len(names) + 1)
    return {character: names[old] for character, old in of.items()}


def _code(node: Pattern, places: dict[frozenset[str], int], known: dict[int, _Code]) -> _Code:
    """Instructions that go on after their last one when a text of the node is complete."""
    if id(node) not in known:
        match node:
            case Characters(members):
                found = _instruction(places[members], 0, 0)
            case Repeat(part, least, most):
                found = _repeated(_code(part, places, known), least, most)
            case Choice(nodes):
                found = _either([_code(option, places, known) for option in nodes])
            case _:
                found = _joined([_code(part, places, known) for part in node.parts])
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
    left = sum(len(takes) + 2 for takes, _, _ in codes) - 2  # the last one has nothing around it
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
    maybe = _joined([_instruction(SPLIT, 1, n + 1), code])
    count = most - least
    takes, first, second = _joined([*[code] * least, *[maybe] * count])
    ends = len(takes) - (n + 1) * np.arange(count, 0, -1, dtype=np.int32)
    second[ends] = len(takes) - ends  # leaving out one leaves out all that follow
    return takes, first, second
