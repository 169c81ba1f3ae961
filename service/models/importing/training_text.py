"""The vocabulary of a training text: candidates as authors make them, those of the right size."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from service.errors import BadCheckpoint
from service.models.tokenizers.characters import CharacterTokenizer
from service.models.tokenizers.special_tokens import SpecialTokens, UnknownPolicy
from service.models.tokenizers.tokenizer import Tokenizer
from service.models.tokenizers.word_rules import (
    Lower,
    WordRules,
    keras_rules,
    text_vectorization_rules,
)
from service.models.tokenizers.words import WordTokenizer

_FRONTS = ((), ("[UNK]",), ("",), ("", "[UNK]"))
_WORD_RULES = {
    "of a Keras Tokenizer": keras_rules(),
    "of a Keras Tokenizer without lower": keras_rules(lower=False),
    "of TextVectorization": text_vectorization_rules(),
    "of split()": WordRules(),
    "of lower().split()": WordRules(Lower.UNICODE),
}
_SHOWN = 10

MAX_WORD_TEXT = 4_000_000  # characters, whose words are always counted
EXCERPT = 400_000  # characters of a text that are scored at most


@dataclass(frozen=True, slots=True)
class Candidate:
    """A tokenizer that an author may have made of a text, the text as it reads it, and its name."""

    tokenizer: Tokenizer
    text: str
    name: str
    note: str = ""  # of what the text differs in from what the model was trained on


def readings(text: str) -> Iterator[tuple[str, str]]:
    """Yield a text as authors read it, each with a note of the difference."""
    for reading in READINGS:
        read = reading.of_text(text)
        if reading is READINGS[0] or read != text:
            yield read, reading.note


@dataclass(frozen=True, slots=True)
class TextReading:
    """A way in which authors read a text file; `note` says what it changes."""

    note: str
    without_mark: bool = True  # a byte order mark is left out
    line_end: str | None = "\n"  # None: as they are in the file
    is_lower: bool = False

    def of_text(self, text: str) -> str:
        """Return the text as it is read."""
        if self.without_mark:
            text = text.removeprefix("\ufeff")
        if self.line_end is not None:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
            text = text.replace("\n", self.line_end)
        return text.lower() if self.is_lower else text

    def of_counts(self, counts: Counter[str]) -> Counter[str]:
        """Return the counts of the characters of the text as it is read, by first appearance."""
        found: Counter[str] = Counter()
        for character, n in counts.items():
            if self.without_mark and character == "\ufeff" and n == 1:
                continue
            if self.line_end is not None and character == "\r" and "\n" in counts:
                continue
            read = character
            if self.line_end is not None and character in "\r\n":
                read = self.line_end
            for each in read.lower() if self.is_lower else read:
                found[each] += n
        return found


_UNIX = "the text has `\\r` (Windows line ends), which the model has not: read as `\\n` it fits"
_LOWER = "the model has no upper-case letters: the text is read in lower case"
_ONE_LINE = "the model has no line breaks: they are read as blanks"
READINGS = (
    TextReading("", without_mark=False, line_end=None),
    TextReading("the text has a byte order mark, which the model has not: left out", line_end=None),
    TextReading(_UNIX),
    TextReading(_LOWER, without_mark=False, line_end=None, is_lower=True),
    TextReading(f"{_LOWER}, with `\\n` for its line ends", is_lower=True),
    TextReading(_ONE_LINE, line_end=" "),
    TextReading(f"{_ONE_LINE}, and the text in lower case", line_end=" ", is_lower=True),
)


def candidates(text: str, size: int) -> list[Candidate]:
    """Return the candidates for a model of `size` tokens, each vocabulary once.

    Words of a very long text are tried only where no characters have the size. Raises
    BadCheckpoint if nothing has it.
    """
    counts = Counter(text)
    found: dict[tuple[str, ...], Candidate] = {}
    for candidate in _characters(text, counts, size):
        found.setdefault(candidate.tokenizer.tokens, candidate)
    if not found or len(text) <= MAX_WORD_TEXT:
        for candidate in _words(text, size):
            found.setdefault(candidate.tokenizer.tokens, candidate)
    if not found:
        raise BadCheckpoint(_size_error(text, counts, size))
    return list(found.values())


def _characters(text: str, counts: Counter[str], size: int) -> Iterator[Candidate]:
    for reading in READINGS:
        read = reading.of_counts(counts)
        for front in _FRONTS:
            if len(read) + len(front) != size:
                continue
            orders = {
                "sorted characters": sorted(read),
                "characters by frequency": _by_frequency(read),
                "characters by first appearance": list(read),
            }
            for order, characters in orders.items():
                policy = UnknownPolicy.UNK if "[UNK]" in front else UnknownPolicy.ERROR
                tokenizer = CharacterTokenizer(
                    (*front, *characters), policy, is_lower=reading.is_lower
                )
                name, excerpt = _named(order, front), reading.of_text(text[:EXCERPT])
                yield Candidate(tokenizer, excerpt, name, reading.note)


def _words(text: str, size: int) -> Iterator[Candidate]:
    plain = READINGS[2].of_text(text)
    for name, rules in _WORD_RULES.items():
        counts = Counter(word for word, _, _ in rules.words(plain))
        if len(counts) + 2 < size or len(counts) < 2:
            continue
        is_keras = "Keras" in name
        if name == "of TextVectorization":
            ordered = {"": sorted(counts, key=lambda word: (counts[word], word), reverse=True)}
            fronts: Sequence[tuple[str, ...]] = (("", "[UNK]"),)
        elif is_keras:
            ordered, fronts = {"": _by_frequency(counts)}, (("",), ("", "<OOV>"))
        else:
            ordered = {"sorted ": sorted(counts), "frequency of ": _by_frequency(counts)}
            fronts = ((), ("",), ("[UNK]",))
        for order, words in ordered.items():
            for front in fronts:
                is_cut = is_keras or name == "of TextVectorization"
                tokens = (*front, *words)
                if len(tokens) == size or (is_cut and len(tokens) > size):
                    yield _of_words(
                        tokens[:size], rules, plain[:EXCERPT], f"{order}words {name}", front
                    )


def _of_words(
    tokens: tuple[str, ...], rules: WordRules, text: str, name: str, front: tuple[str, ...]
) -> Candidate:
    has_unknown, is_keras = len(front) > 1 or "[UNK]" in front, "Keras" in name
    unknown = front.index(front[-1]) if has_unknown else None
    pad = 0 if "" in front else None
    policy = UnknownPolicy.UNK if has_unknown else UnknownPolicy.SKIP
    if not front:
        policy = UnknownPolicy.ERROR
    special = SpecialTokens(pad, unknown, None, (0,) if is_keras else ())
    return Candidate(WordTokenizer(tokens, policy, rules, special), text, _named(name, front))


def _by_frequency(counts: Counter[str]) -> list[str]:
    """Return tokens by falling frequency; ties are in the order of first appearance."""
    return [token for token, _ in counts.most_common()]


def _named(name: str, front: Iterable[str]) -> str:
    listed = " and ".join(repr(token) if token else "the padding" for token in front)
    return f"{name} after {listed}" if listed else name


def _size_error(text: str, counts: Counter[str], size: int) -> str:
    words = len({word for word, _, _ in keras_rules().words(text)})
    message = (
        f"the text has {len(counts)} different characters and {words} different words, but the "
        f"weights are made for {size} tokens"
    )
    if abs(len(counts) - size) <= 3:
        rare = ", ".join(
            repr(character) for character, _ in counts.most_common()[: -_SHOWN - 1 : -1]
        )
        return (
            f"{message}: the model was trained on another text, or on this one with some "
            f"characters more or less; its rarest are {rare}"
        )
    return f"{message}: give the text that the model was trained on, or the list of its tokens"
