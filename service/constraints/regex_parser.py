r"""Parser of regular expressions: the regular part of Python's dialect.

The whole output must match, so groups capture nothing, lazy quantifiers equal greedy ones, and `^`
and `$` are allowed only at the ends, where they change nothing. What is not regular (look-around,
back-references, word boundaries) or differs between dialects (`[[:alpha:]]`, `\p{…}`, flags) is
refused by its name.

Source: the grammar of Python 3.11's `re`; the meaning is that of `re.fullmatch`.
"""

import re
from typing import NoReturn

from service.constraints.pattern import Alphabet, Pattern, characters, choice, repeat, sequence
from service.errors import Validation

MAX_DEPTH = 50
"""The deepest nesting of groups."""

MAX_REPEATS = 65_535
"""The largest number in a quantifier."""

_QUANTIFIER = re.compile(r"\{([0-9]*)(,?)([0-9]*)\}")
_NAME = re.compile(r"P?<[A-Za-z_]\w*>")
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a", "0": "\0"}
_CODES = {"x": 2, "u": 4, "U": 8}
_HEXADECIMAL = frozenset("0123456789abcdefABCDEF")
_GROUPS = {
    **dict.fromkeys("=!", "look-ahead"),
    **dict.fromkeys(("<=", "<!"), "look-behind"),
    "P=": "a reference back",
    ">": "an atomic group",
    "(": "a conditional group",
    "#": "a comment",
}
_NO_ANCHOR = "an anchor that is not at an end of the pattern"
_ESCAPES = {
    **dict.fromkeys("bB", "a word boundary"),
    **dict.fromkeys("AZz", _NO_ANCHOR),
    **dict.fromkeys("k123456789", "a reference back"),
    **dict.fromkeys("pP", "a Unicode property"),
}
_SET_OPERATORS = ("--", "&&", "||", "~~")


def read_regex(text: str, alphabet: Alphabet) -> Pattern:
    """Parse a regular expression with the meaning of `re.fullmatch`. Raises Validation."""
    return _Parser(text, alphabet).read()


def read_search(text: str, alphabet: Alphabet) -> Pattern:
    """Parse a regular expression with the meaning of `re.search`. Raises as `read_regex`."""
    parser = _Parser(text, alphabet)
    pattern = parser.read()
    anything = repeat(characters(alphabet.members), 0, None)
    if parser.n_alternatives > 1 and (parser.is_anchored_at_start or parser.is_anchored_at_end):
        parser.refuse("an anchor in one of several alternatives", 0)
    before = [] if parser.is_anchored_at_start else [anything]
    after = [] if parser.is_anchored_at_end else [anything]
    return sequence(*before, pattern, *after)


class _Parser:
    """A recursive-descent parser of one pattern."""

    def __init__(self, text: str, alphabet: Alphabet) -> None:
        self._text, self._alphabet = text, alphabet
        self._at = 0
        self._depth = 0
        self.is_anchored_at_start = self.is_anchored_at_end = False
        self.n_alternatives = 0

    def read(self) -> Pattern:
        pattern = self._alternatives()
        if self._at < len(self._text):
            self._malformed("there is a ) without its (", self._at)
        return pattern

    def refuse(self, what: str, at: int) -> NoReturn:
        raise Validation(
            f"the pattern has {what} at offset {at}, which is not served; write it without"
        )

    def _malformed(self, what: str, at: int) -> NoReturn:
        raise Validation(f"the pattern is not a regular expression: {what}, at offset {at}")

    # -- position

    def _peek(self, *texts: str) -> bool:
        return self._text.startswith(texts, self._at)

    def _accept(self, text: str) -> bool:
        if not self._peek(text):
            return False
        self._at += len(text)
        return True

    def _next(self, wanted: str) -> str:
        if self._at == len(self._text):
            self._malformed(f"it ends where {wanted} is expected", self._at)
        self._at += 1
        return self._text[self._at - 1]

    # -- terms and quantifiers

    def _alternatives(self) -> Pattern:
        options = [self._terms()]
        while self._accept("|"):
            options.append(self._terms())
        if not self._depth:
            self.n_alternatives = len(options)
        return choice(*options)

    def _terms(self) -> Pattern:
        self._anchors_before()
        terms: list[Pattern] = []
        while self._at < len(self._text) and not self._peek("|", ")"):
            if self._anchors_after():
                break
            start = self._at
            terms.append(self._quantified(self._term(), start))
        return sequence(*terms)

    def _anchors_before(self) -> None:
        while self._peek("^", r"\A"):
            if self._depth:
                self.refuse(_NO_ANCHOR, self._at)
            self._at += 1 if self._peek("^") else 2
            self.is_anchored_at_start = True
            if self._peek("*", "+", "?"):
                self.refuse("a repeated anchor", self._at)

    def _anchors_after(self) -> bool:
        start = self._at
        while self._peek("$", r"\Z", r"\z"):
            self._at += 1 if self._peek("$") else 2
        if self._at == start:
            return False
        if self._depth or not (self._at == len(self._text) or self._peek("|")):
            self.refuse(_NO_ANCHOR, start)
        self.is_anchored_at_end = True
        return True

    def _term(self) -> Pattern:
        start = self._at
        character = self._next("a character")
        match character:
            case "(":
                return self._group(start)
            case "[":
                return self._set(start)
            case ".":
                return characters(self._alphabet.members - {"\n"})
            case "\\":
                members = self._escaped(start)
                one = frozenset({members}) if isinstance(members, str) else members
                return characters(one & self._alphabet.members)
            case "*" | "+" | "?":
                self._malformed(f"{character} has nothing to repeat", start)
            case "^":
                self.refuse(_NO_ANCHOR, start)
            case "{" if _QUANTIFIER.match(self._text, start) and not self._peek("}"):
                self._malformed("{ has nothing to repeat", start)
        return characters({character} & self._alphabet.members)

    def _quantified(self, term: Pattern, start: int) -> Pattern:
        bounds = self._bounds()
        if bounds is None:
            return term
        if self._accept("+"):
            self.refuse("a possessive quantifier", start)
        self._accept("?")  # a lazy quantifier matches the same texts
        if self._at < len(self._text) and self._bounds() is not None:
            self._malformed("a quantifier after a quantifier", self._at - 1)
        return repeat(term, *bounds)

    def _bounds(self) -> tuple[int, int | None] | None:
        for sign, bounds in {"*": (0, None), "+": (1, None), "?": (0, 1)}.items():
            if self._accept(sign):
                return bounds
        found = _QUANTIFIER.match(self._text, self._at)
        if found is None or found[0] == "{}":
            return None
        start, self._at = self._at, found.end()
        if len(found[0]) > 2 * len(str(MAX_REPEATS)) + len("{,}"):
            self._too_often(start)
        least = int(found[1] or 0)
        most = (int(found[3]) if found[3] else None) if found[2] else least
        if max(least, most or 0) > MAX_REPEATS:
            self._too_often(start)
        if most is not None and most < least:
            self._malformed(f"the quantifier {found[0]} ends before it begins", start)
        return least, most

    def _too_often(self, start: int) -> NoReturn:
        raise Validation(
            f"the pattern repeats something more than {MAX_REPEATS} times at offset {start}; "
            "repeat it less often, or without an upper bound"
        )

    # -- groups

    def _group(self, start: int) -> Pattern:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Validation(
                f"the pattern has groups inside groups {self._depth} deep; "
                f"{MAX_DEPTH} is the limit, so write it flatter"
            )
        if self._accept("?"):
            self._open(start)
        elif self._peek("*"):
            self.refuse("a backtracking verb", start)
        pattern = self._alternatives()
        if not self._accept(")"):
            self._malformed("a ( is not closed", start)
        self._depth -= 1
        return pattern

    def _open(self, start: int) -> None:
        """Parse what follows `(?`."""
        if self._accept(":"):
            return
        if found := _NAME.match(self._text, self._at):
            self._at = found.end()
            return
        for sign, name in _GROUPS.items():
            if self._peek(sign):
                self.refuse(name, start)
        self.refuse("a flag", start)

    # -- sets and escapes

    def _set(self, start: int) -> Pattern:
        is_negated = self._accept("^")
        members = self._item(start)  # a ] that comes first is a character
        while not self._peek("]"):
            members |= self._item(start)
        self._at += 1
        known = self._alphabet.members
        return characters(known - members if is_negated else members & known)

    def _item(self, start: int) -> frozenset[str]:
        """Parse one character, class or range of a set."""
        at = self._at
        if self._peek("[", *_SET_OPERATORS):
            self.refuse("a set in a set, or what other dialects read as one; escape it", at)
        first = self._member(start)
        if not self._peek("-") or self._text.startswith("-]", self._at):
            return frozenset({first}) if isinstance(first, str) else first
        if self._peek(*_SET_OPERATORS):
            self.refuse("a set in a set, or what other dialects read as one; escape it", self._at)
        self._at += 1
        last = self._member(start)
        if not (isinstance(first, str) and isinstance(last, str)):
            self._malformed("a range of a set has a class for an end", at)
        if last < first:
            self._malformed(f"the range {first}-{last} of a set ends before it begins", at)
        return self._alphabet.between(first, last)

    def _member(self, start: int) -> str | frozenset[str]:
        at = self._at
        if at == len(self._text):
            self._malformed("a [ is not closed", start)
        if self._peek("["):
            self.refuse("a set in a set, or what other dialects read as one; escape it", at)
        character = self._next("a character of a set")
        if character != "\\":
            return character
        if self._accept("b"):
            return "\b"
        return self._escaped(at)

    def _escaped(self, start: int) -> str | frozenset[str]:
        """Parse what follows a backslash: a character, or the characters of a class."""
        letter = self._next("an escaped character")
        classes = self._alphabet.classes
        if letter in classes:
            return classes[letter]
        if letter.lower() in classes:
            return self._alphabet.members - classes[letter.lower()]
        if letter in _CODES:
            return self._code(letter, start)
        if letter == "0" and self._text[self._at : self._at + 1].isdigit():
            self.refuse("an octal escape", start)
        if letter in _CONTROLS:
            return _CONTROLS[letter]
        if letter in _ESCAPES:
            self.refuse(_ESCAPES[letter], start)
        if letter.isascii() and letter.isalpha():
            self._malformed(f"\\{letter} is no escape", start)
        return letter

    def _code(self, letter: str, start: int) -> str:
        digits = self._text[self._at : self._at + _CODES[letter]]
        if len(digits) != _CODES[letter] or not _HEXADECIMAL.issuperset(digits):
            self._malformed(f"\\{letter} needs {_CODES[letter]} hexadecimal digits", start)
        self._at += len(digits)
        if int(digits, 16) > 0x10FFFF:
            self._malformed(f"\\{letter}{digits} is no character", start)
        return chr(int(digits, 16))
