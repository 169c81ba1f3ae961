"""Patterns of JSON texts over one alphabet: compact, at most one space after , and :."""

import json
from collections.abc import Sequence
from typing import Any

from service.constraints.pattern import (
    EMPTY,
    NOTHING,
    Alphabet,
    Characters,
    Choice,
    Pattern,
    Repeat,
    characters,
    choice,
    optional,
    repeat,
    sequence,
)
from service.constraints.regex_parser import read_regex, read_search

DIGITS = 15
"""The largest number of digits before the point, and after it: the precision of a double."""

BOUNDED_FRACTION = 6
"""The same after the point of a number with bounds, which has at most nine before it."""

_SHORT_ESCAPES = {'"': '"', "\\": "\\", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}
_DATE = (
    r"[1-9][0-9]{3}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])"
    r"|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
)
_TIME = (
    r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?"
    r"(Z|[+\-]([01][0-9]|2[0-3]):[0-5][0-9])"
)
_BYTE = r"(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
FORMATS = {
    "date": _DATE,
    "date-time": f"{_DATE}T{_TIME}",
    "email": r"[a-z0-9]+([._+\-][a-z0-9]+)*@[a-z0-9]+(-[a-z0-9]+)*(\.[a-z0-9]+(-[a-z0-9]+)*)+",
    "ipv4": rf"{_BYTE}(\.{_BYTE}){{3}}",
    "time": _TIME,
    "uuid": r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
}


class JsonText:
    """Patterns of JSON over an alphabet; a character that it lacks is escaped if possible."""

    def __init__(self, alphabet: Alphabet) -> None:
        self._alphabet = alphabet
        controls = frozenset(map(chr, range(0x20)))
        self._raw = Alphabet(alphabet.members - controls - {'"', "\\"})
        self._digit = self._of("0123456789")
        self._comma = sequence(self._of(","), optional(self._of(" ")))
        self._colon = sequence(self._of(":"), optional(self._of(" ")))
        escaped = sequence(self._of("\\"), self._of("".join(_SHORT_ESCAPES.values())))
        self._unit = choice(characters(self._raw.members), escaped)
        self._any: dict[int, Pattern] = {}

    # -- strings

    def literal(self, value: Any) -> Pattern:
        """Return the pattern of one value, in its compact spelling."""
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return sequence(*map(self._character, text))

    def string(self, least: int, most: int | None) -> Pattern:
        """Return the pattern of any string of `least` to `most` characters."""
        return self._quoted(repeat(self._unit, least, most))

    def matching(self, regex: str) -> Pattern:
        """Return the pattern of strings in which a regex has a match. Raises as `read_search`."""
        known = Alphabet(self._raw.members | _SHORT_ESCAPES.keys())
        return self._quoted(self._escaped(read_search(regex, known), {}))

    def format(self, name: str) -> Pattern:
        """Return the pattern of strings of one of FORMATS."""
        return self._quoted(read_regex(FORMATS[name], self._raw))

    # -- numbers

    def number(self) -> Pattern:
        """Return the pattern of any number of at most DIGITS digits before and after the point."""
        exponent = sequence(self._of("eE"), optional(self._of("+-")), repeat(self._digit, 1, 2))
        whole = self._between(0, 10**DIGITS - 1)
        return sequence(
            optional(self._of("-")), whole, optional(self._fraction(DIGITS)), optional(exponent)
        )

    def integer(self, least: int | None, most: int | None) -> Pattern:
        """Return the pattern of integers within inclusive bounds; None: at most DIGITS digits."""
        largest = 10**DIGITS - 1
        least = min(-largest, most or 0) if least is None else least
        most = max(largest, least) if most is None else most
        negative = self._between(max(1, -most), -least)
        return choice(self._between(max(0, least), most), sequence(self._of("-"), negative))

    def between(
        self, least: int | None, most: int | None, *, above: bool = False, below: bool = False
    ) -> Pattern:
        """Return the pattern of numbers within bounds, exclusive if `above` or `below` is true."""
        largest = 10**9 - 1
        least, above = (-largest, above) if least is None else (least, above)
        most, below = (largest, below) if most is None else (most, below)
        options = []
        if most >= 0:
            is_open = above and least >= 0
            options.append(self._magnitudes(max(0, least), most, above=is_open, below=below))
        if least < 0:
            is_open = most >= 0 or below
            magnitudes = self._magnitudes(max(0, -most), -least, above=is_open, below=above)
            options.append(sequence(self._of("-"), magnitudes))
        return choice(*options)

    def _magnitudes(self, least: int, most: int, *, above: bool, below: bool) -> Pattern:
        fraction = self._fraction(BOUNDED_FRACTION)
        zeros = sequence(self._of("."), repeat(self._of("0"), 1, BOUNDED_FRACTION))
        half = BOUNDED_FRACTION // 2
        before, after = repeat(self._of("0"), 0, half - 1), repeat(self._digit, 0, half)
        nonzero = sequence(self._of("."), before, self._of("123456789"), after)
        first, last = self._between(least, least), self._between(most, most)
        if least >= most:
            is_there = least == most and not above and not below
            return sequence(first, optional(zeros)) if is_there else NOTHING
        options = [
            sequence(first, nonzero),
            sequence(self._between(least + 1, most - 1), optional(fraction)),
        ]
        if not above:
            options.append(sequence(first, optional(zeros)))
        if not below:
            options.append(sequence(last, optional(zeros)))
        return choice(*options)

    def _fraction(self, digits: int) -> Pattern:
        return sequence(self._of("."), repeat(self._digit, 1, digits))

    def _between(self, least: int, most: int) -> Pattern:
        """Return the pattern of the numbers from `least` to `most`, without leading zeros."""
        if least > most:
            return NOTHING
        if least == 0:
            return choice(self._of("0"), self._between(1, most))
        shortest, longest = len(str(least)), len(str(most))
        if least == 10 ** (shortest - 1) and most == 10**longest - 1:
            return sequence(
                self._of("123456789"), repeat(self._digit, shortest - 1, longest - 1)
            )  # all lengths in one: fewer positions
        if shortest == longest:
            return self._same_length(str(least), str(most))
        middle = 10 ** (longest - 1)
        return choice(self._between(least, middle - 1), self._between(middle, most))

    def _same_length(self, low: str, high: str) -> Pattern:
        rest = len(low) - 1
        if not low:
            return EMPTY
        if low == "0" * (rest + 1) and high == "9" * (rest + 1):
            return repeat(self._digit, rest + 1, rest + 1)
        if low[0] == high[0]:
            return sequence(self._of(low[0]), self._same_length(low[1:], high[1:]))
        between = "".join(map(str, range(int(low[0]) + 1, int(high[0]))))
        return choice(
            sequence(self._of(low[0]), self._same_length(low[1:], "9" * rest)),
            sequence(self._of(between), repeat(self._digit, rest, rest)),
            sequence(self._of(high[0]), self._same_length("0" * rest, high[1:])),
        )

    # -- arrays and objects

    def array(
        self, prefix: Sequence[Pattern], item: Pattern, least: int, most: int | None
    ) -> Pattern:
        """Return the pattern of arrays of `prefix`, then items: `least` to `most` elements."""
        if most is not None and most < least:
            return NOTHING
        prefix = prefix[:most]
        if not prefix:
            inner = self._joined(item, least, most)
        else:
            n = len(prefix)
            tail = repeat(
                sequence(self._comma, item), max(0, least - n), None if most is None else most - n
            )
            for i in reversed(range(1, n)):
                tail = sequence(self._comma, prefix[i], tail)
                tail = tail if i < least else optional(tail)
            inner = sequence(prefix[0], tail)
            inner = inner if least else optional(inner)
        return sequence(self._of("["), inner, self._of("]"))

    def map(self, value: Pattern) -> Pattern:
        """Return the pattern of objects with any keys."""
        pair = sequence(self.string(0, None), self._colon, value)
        return sequence(self._of("{"), self._joined(pair, 0, None), self._of("}"))

    def object(self, properties: Sequence[tuple[str, Pattern, bool]]) -> Pattern:
        """Return the pattern of objects with these (name, value, is required), in this order."""
        pairs = [
            (sequence(self.literal(name), self._colon, value), is_required)
            for name, value, is_required in properties
        ]
        firsts = [i for i, (_, is_required) in enumerate(pairs) if is_required][:1]
        options: list[Pattern] = [] if firsts else [EMPTY]
        # Alternatives begin at the first required one or, without one, at the last one present.
        for i in firsts or range(len(pairs)):
            before = [optional(sequence(pair, self._comma)) for pair, _ in pairs[:i]]
            after: list[Pattern] = []
            for pair, is_required in pairs[i + 1 :] if firsts else []:
                more = sequence(self._comma, pair)
                after.append(more if is_required else optional(more))
            options.append(sequence(*before, pairs[i][0], *after))
        return sequence(self._of("{"), choice(*options), self._of("}"))

    def any(self, depth: int) -> Pattern:
        """Return the pattern of any value with arrays and objects nested at most `depth` deep."""
        if depth not in self._any:
            options = [self.string(0, None), self.number()]
            options += [self.literal(value) for value in (True, False, None)]
            if depth:
                inner = self.any(depth - 1)
                options += [self.array((), inner, 0, None), self.map(inner)]
            self._any[depth] = choice(*options)
        return self._any[depth]

    def _joined(self, item: Pattern, least: int, most: int | None) -> Pattern:
        """Return the pattern of items with commas, in the form with one copy of the item."""
        if most == 0:
            return EMPTY
        others = repeat(
            sequence(item, self._comma), max(0, least - 1), None if most is None else most - 1
        )
        some = sequence(others, item)
        return some if least else optional(some)

    # -- characters

    def _of(self, members: str) -> Pattern:
        return characters(frozenset(members) & self._alphabet.members)

    def _quoted(self, inner: Pattern) -> Pattern:
        return sequence(self._of('"'), inner, self._of('"'))

    def _character(self, character: str) -> Pattern:
        """Return the pattern of a character; one beyond ASCII is in a string and may be escaped."""
        if character in self._alphabet.members or character.isascii():
            return self._of(character)
        escape = json.dumps(character)[1:-1]
        return sequence(*(self._of(c + c.upper() if c in "abcdef" else c) for c in escape))

    def _escaped(self, node: Pattern, known: dict[int, Pattern]) -> Pattern:
        """Convert a pattern of string values into one of their spelling between the quotes."""
        if id(node) not in known:
            match node:
                case Characters(members):
                    special = sorted(members & _SHORT_ESCAPES.keys())
                    letters = "".join(_SHORT_ESCAPES[c] for c in special)
                    found = choice(
                        characters(members - _SHORT_ESCAPES.keys()),
                        sequence(self._of("\\"), self._of(letters)),
                    )
                case Repeat(part, least, most):
                    found = repeat(self._escaped(part, known), least, most)
                case Choice(nodes):
                    found = choice(*(self._escaped(option, known) for option in nodes))
                case _:
                    found = sequence(*(self._escaped(part, known) for part in node.parts))
            known[id(node)] = found
        return known[id(node)]
