r"""The rules by which a text becomes words: lower case, punctuation, and where it is split.

Sources: Keras 2 and 3, `preprocessing.text.text_to_word_sequence` and `layers.TextVectorization`
with `tf.strings.lower`, `tf.strings.split`; textgenrnn, `textgenrnn_generate`.
"""

import re
import string
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cache
from typing import Self

from pydantic import JsonValue

_ASCII_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


class Lower(StrEnum):
    """Which letters become lower case."""

    NONE = "none"
    ASCII = "ascii"  # tf.strings.lower without an encoding
    UNICODE = "unicode"  # Python's str.lower, whose result may be longer

    def __call__(self, text: str) -> str:
        """Return the text in lower case."""
        if self is self.UNICODE:
            return text.lower()
        return text.translate(_ASCII_LOWER) if self is self.ASCII else text


class Punctuation(StrEnum):
    """What happens to the characters of `WordRules.characters`."""

    SPLIT = "split"  # each separates words, as a Keras Tokenizer's filters
    DELETE = "delete"  # each is deleted, as TextVectorization does
    WORD = "word"  # each is a word of its own, as textgenrnn has it


UNICODE_WHITESPACE, ASCII_WHITESPACE = "unicode whitespace", "ascii whitespace"


@dataclass(frozen=True, slots=True)
class WordRules:
    """The rules that split a text into words; the default is `str.split()`.

    `separator` is UNICODE_WHITESPACE as in `str.split()`, ASCII_WHITESPACE as in
    `tf.strings.split`, or a string.
    """

    lower: Lower = Lower.NONE
    punctuation: Punctuation = Punctuation.DELETE
    characters: str = ""
    separator: str = UNICODE_WHITESPACE

    def words(self, text: str) -> Iterator[tuple[str, int, int]]:
        """Return (word, start, stop) of each word, offsets in the text as it is given."""
        lowered = self.lower(text)
        offsets = None if len(lowered) == len(text) else lower_offsets(text)
        deleted = None
        if self.punctuation is Punctuation.DELETE and self.characters:
            deleted = dict.fromkeys(map(ord, self.characters))
        pattern = _pattern(self)
        for match in pattern.finditer(lowered):
            word, (start, stop) = match[pattern.groups], match.span()
            if word is None:  # a separator
                continue
            if deleted is not None:
                word = word.translate(deleted)
                if not word:
                    continue
            if offsets is not None:
                start, stop = offsets[start], offsets[stop - 1] + 1
            yield word, start, stop

    def to_json(self) -> dict[str, JsonValue]:
        """Return the rules as JSON values; `from_json` is the inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, JsonValue]) -> Self:
        """Read the value of `to_json`. Raises ValueError, TypeError or KeyError."""
        texts = {name: str(value[name]) for name in ("characters", "separator")}
        lower, punctuation = Lower(str(value["lower"])), Punctuation(str(value["punctuation"]))
        return cls(lower, punctuation, **texts)


KERAS_FILTERS = '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n'
_TEXTGENRNN_PUNCTUATION = (
    "!\"#$%&()*+,-./:;<=>?@[]^_`{|}~\n\t'\u2018\u2019\u201c\u201d\u2013\u2014\u2026"
)


def keras_rules(filters: str = KERAS_FILTERS, split: str = " ", *, lower: bool = True) -> WordRules:
    """Return the rules of a Keras `Tokenizer` of words."""
    return WordRules(
        Lower.UNICODE if lower else Lower.NONE, Punctuation.SPLIT, filters, split or " "
    )


def text_vectorization_rules(standardize: str | None = "lower_and_strip_punctuation") -> WordRules:
    """Return the rules of a `TextVectorization` that splits at whitespace.

    `standardize` is lower_and_strip_punctuation, lower, strip_punctuation or None.
    """
    name = standardize or ""
    return WordRules(
        Lower.ASCII if "lower" in name else Lower.NONE,
        Punctuation.DELETE,
        string.punctuation if "strip_punctuation" in name else "",
        ASCII_WHITESPACE,
    )


TEXTGENRNN_RULES = WordRules(Lower.UNICODE, Punctuation.WORD, _TEXTGENRNN_PUNCTUATION)
"""The rules of textgenrnn's word level."""


@cache
def _pattern(rules: WordRules) -> re.Pattern[str]:
    """Return the pattern of a word in a text in lower case.

    With a separator of several characters it is that of a separator or a word, the group.
    """
    listed = "".join(map(re.escape, rules.characters))
    if rules.separator == UNICODE_WHITESPACE:
        between = r"\s"
    elif rules.separator == ASCII_WHITESPACE:
        between = r"\t\n\v\f\r "
    elif len(rules.separator) == 1:
        between = re.escape(rules.separator)
    else:
        stop = f"|[{listed}]" if listed and rules.punctuation is Punctuation.SPLIT else ""
        between = f"{re.escape(rules.separator)}{stop}"
        return re.compile(f"{between}|((?:(?!{between}).)+)", re.DOTALL)
    if not listed or rules.punctuation is Punctuation.DELETE:
        return re.compile(f"[^{between}]+")
    run = f"[^{between}{listed}]+"
    is_word = rules.punctuation is Punctuation.WORD
    return re.compile(f"(?![{between}])[{listed}]|{run}" if is_word else run)


def lower_offsets(text: str) -> list[int]:
    """Return the offset in a text of each character of its lower case, which is longer."""
    return [i for i, character in enumerate(text) for _ in character.lower()]
