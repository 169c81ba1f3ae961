"""Properties of a text that a cell may follow: each is a number at each character.

A property after a character depends on the text up to and with that character, as a cell does.
What pairs things begins anew at a blank line.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
Track = Callable[[str], Iterator[float]]

_VERSE_MARKS = frozenset("\u3002\uff0c\uff01\uff1f\uff1b\uff1a\u3001")
_MARKS = _VERSE_MARKS | frozenset("\u2026\u2014\u201c\u201d\u300a\u300b")


@dataclass(frozen=True, slots=True)
class Property:
    """A property of texts."""

    name: str
    kind: Literal["binary", "number"]
    track: Track
    has_hindsight: bool = False  # whether a value may depend on what comes later

    def values(self, text: str) -> Values:
        """The value after each character."""
        return np.fromiter(self.track(text), np.float64, len(text))


def _depth(pairs: str) -> Track:
    opening, closing = frozenset(pairs[::2]), frozenset(pairs[1::2])

    def track(text: str) -> Iterator[float]:
        depth, last = 0, ""
        for one in text:
            if one in opening:
                depth += 1
            elif one in closing:
                depth = max(0, depth - 1)
            elif one == "\n" == last:
                depth = 0
            last = one
            yield depth

    return track


def _inside(pair: str) -> Track:
    depth = _depth(pair)

    def track(text: str) -> Iterator[float]:
        return (float(value > 0) for value in depth(text))

    return track


def _quotation_length(text: str) -> Iterator[float]:
    length, last = 0, ""
    for one in text:
        if one == '"':
            length = 0 if length else 1
        elif one == "\n" == last:
            length = 0
        elif length:
            length += 1
        last = one
        yield length


def _in_double_quotes(text: str) -> Iterator[float]:
    return (float(length > 0) for length in _quotation_length(text))


def _in_single_quotes(text: str) -> Iterator[float]:
    is_open, last = False, " "
    for one in text:
        if one == "'":
            is_open = not is_open and not last.isalnum()
        elif one == "\n" == last:
            is_open = False
        last = one
        yield float(is_open)


def _column(text: str) -> Iterator[float]:
    column = 0
    for one in text:
        column = 0 if one == "\n" else column + 1
        yield column


def _indent(text: str) -> Iterator[float]:
    indent, is_within = 0, True
    for one in text:
        if one == "\n":
            indent, is_within = 0, True
        elif is_within and one in " \t":
            indent += 1
        else:
            is_within = False
        yield indent


def _in_indent(text: str) -> Iterator[float]:
    is_within = True
    for one in text:
        is_within = one == "\n" or (is_within and one in " \t")
        yield float(is_within)


def _run(belongs: Callable[[str], bool]) -> Track:
    def track(text: str) -> Iterator[float]:
        length = 0
        for one in text:
            length = length + 1 if belongs(one) else 0
            yield length

    return track


def _since_sentence_end(text: str) -> Iterator[float]:
    since, last = 0, ""
    for one in text:
        ends = (one.isspace() and last in {".", "!", "?"}) or one in "\u3002\uff01\uff1f"
        since = 0 if ends else since + 1
        last = one
        yield since


def _line_of_paragraph(text: str) -> Iterator[float]:
    line, last = 0, ""
    for one in text:
        if one == "\n":
            line = 0 if last == "\n" else line + 1
        last = one
        yield line


def _in_url(text: str) -> Iterator[float]:
    is_within, tail = False, ""
    for one in text:
        tail = (tail + one)[-8:]
        if is_within:
            is_within = not one.isspace() and one not in "<>\"'"
        else:
            is_within = tail.endswith(("http://", "https://"))
        yield float(is_within)


def _in_comment(text: str) -> Iterator[float]:
    is_within, before, last = False, "", "\n"
    for one in text:
        if one == "\n":
            is_within = False
        elif (one == "#" and last.isspace()) or (one == last == "/" and before != ":"):
            is_within = True
        before, last = last, one
        yield float(is_within)


def _since(marks: frozenset[str]) -> Track:
    def track(text: str) -> Iterator[float]:
        since = 0
        for one in text:
            since = 0 if one in marks else since + 1
            yield since

    return track


def _is_of_word(one: str) -> bool:
    return one.isalnum() or one == "_"


_ALL: tuple[tuple[str, Literal["binary", "number"], Track], ...] = (
    ("in_double_quotes", "binary", _in_double_quotes),
    ("in_single_quotes", "binary", _in_single_quotes),
    ("in_parentheses", "binary", _inside("()")),
    ("in_brackets", "binary", _inside("[]")),
    ("in_braces", "binary", _inside("{}")),
    ("depth", "number", _depth("()[]{}")),
    ("quotation_length", "number", _quotation_length),
    ("column", "number", _column),
    ("indent", "number", _indent),
    ("in_indent", "binary", _in_indent),
    ("place_in_word", "number", _run(_is_of_word)),
    ("since_sentence_end", "number", _since_sentence_end),
    ("line_of_paragraph", "number", _line_of_paragraph),
    ("run_of_capitals", "number", _run(str.isupper)),
    ("run_of_digits", "number", _run(str.isdigit)),
    ("in_url", "binary", _in_url),
    ("in_comment", "binary", _in_comment),
    ("in_curly_quotes", "binary", _inside("\u201c\u201d")),
    ("in_title_marks", "binary", _inside("\u300a\u300b")),
    ("since_punctuation", "number", _since(_MARKS)),
    ("place_in_verse", "number", _since(_VERSE_MARKS | {"\n"})),
)

PROPERTIES: Mapping[str, Property] = MappingProxyType(
    {name: Property(name, kind, track) for name, kind, track in _ALL}
)
"""The properties that every text may have."""
