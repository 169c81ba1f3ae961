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


@dataclass(frozen=True, slots=True)
class Candidate:
    """A tokenizer that an author may have made of a text, the text as it reads it, and its name."""

    tokenizer: Tokenizer
    text: str
    name: str
    note: str = ""  # of what the text differs in from what the model was trained on


def readings(text: str) -> Iterator[tuple[str, str]]:
    """Yield a text as authors read it, each with a note of the difference."""
    yield text, ""
    plain = text.removeprefix("\ufeff")
    if plain != text:
        yield (
            plain,
            "the text begins with a byte order mark, which the model has not: it is left out",
        )
    unix = plain.replace("\r\n", "\n").replace("\r", "\n")
    if unix != plain:
        fits = "the text has `\\r` (Windows line ends), which the model has not"
        yield unix, f"{fits}: read as `\\n` it fits"
    one_line = unix.replace("\n", " ")
    for each, note in ((text, ""), (unix, "line ends are read as `\\n`")):
        if each.lower() != each and (each is text or unix != text):
            lowered = "the model has no upper-case letters: the text is read in lower case"
            yield each.lower(), "; ".join(filter(None, (note, lowered)))
    if one_line != unix:
        note = "the model has no line breaks: they are read as blanks"
        yield one_line, note
        yield one_line.lower(), f"{note}, and the text in lower case"


def candidates(text: str, size: int) -> list[Candidate]:
    """Return the candidates for a model of `size` tokens, each vocabulary once.

    Raises BadCheckpoint if none has the size, and shows in what they differ.
    """
    found: dict[tuple[str, ...], Candidate] = {}
    for candidate in (*_characters(text, size), *_words(text, size)):
        found.setdefault(candidate.tokenizer.tokens, candidate)
    if not found:
        raise BadCheckpoint(_size_error(text, size))
    return list(found.values())


def _characters(text: str, size: int) -> Iterator[Candidate]:
    for read, note in readings(text):
        counts = Counter(read)
        for front in _FRONTS:
            if len(counts) + len(front) != size:
                continue
            orders = {
                "sorted characters": sorted(counts),
                "characters by frequency": _by_frequency(counts),
                "characters by first appearance": list(counts),
            }
            for order, characters in orders.items():
                tokens = (*front, *characters)
                policy = UnknownPolicy.UNK if "[UNK]" in front else UnknownPolicy.ERROR
                is_lower = "lower case" in note
                tokenizer = CharacterTokenizer(tokens, policy, is_lower=is_lower)
                yield Candidate(tokenizer, read, _named(order, front), note)


def _words(text: str, size: int) -> Iterator[Candidate]:
    plain = text.removeprefix("\ufeff")
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
                    yield _of_words(tokens[:size], rules, plain, f"{order}words {name}", front)


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


def _size_error(text: str, size: int) -> str:
    counts = Counter(text)
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
