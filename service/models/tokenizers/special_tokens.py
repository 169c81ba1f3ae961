"""Special tokens of a vocabulary: padding, unknown text, the beginning and the end of a text."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Self

from pydantic import JsonValue

UNKNOWN_TOKENS = ("[UNK]", "<unk>", "<UNK>", "UNK", "unk", "<OOV>", "OOV")
PAD_TOKENS = ("", "<pad>", "<PAD>", "[PAD]", "PAD", "pad", "[MASK]", "<mask>")
BEGIN_TOKENS = (
    *("[START]", "[BOS]", "<s>", "<bos>", "<BOS>", "<sos>", "<SOS>", "<start>", "<START>"),
)
END_TOKENS = ("[END]", "[EOS]", "</s>", "<eos>", "<EOS>", "<end>", "<END>", "<|endoftext|>")


class UnknownPolicy(StrEnum):
    """The treatment of a part of a prompt that has no token."""

    ERROR = "error"
    SKIP = "skip"
    UNK = "unk"


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The ids of a vocabulary's special tokens, whose text is empty.

    A token of `end` may be sampled and ends the text; no other special token is ever sampled.
    """

    pad: int | None = None
    unknown: int | None = None
    begin: int | None = None
    end: tuple[int, ...] = ()
    is_begin_added: bool = False  # before each prompt, as textgenrnn does; else before an empty one

    @classmethod
    def by_name(cls, tokens: Sequence[str], *, are_words: bool = False) -> Self:
        """Find the special tokens of a vocabulary by their usual names.

        Among words a name such as `pad` is a word like any other.
        """
        return cls._by_ids(_named_ids(tokens), are_words=are_words)

    @classmethod
    def by_marked_name(cls, tokens: Sequence[str], marked: Container[int] = ()) -> Self:
        """Find the special tokens of a vocabulary of pieces by their usual names.

        A name of letters, such as PAD, is a piece like any other unless its id is in `marked`.
        """
        ids = _named_ids(tokens)
        return cls._by_ids({t: i for t, i in ids.items() if i in marked or not t.isalpha()})

    @classmethod
    def _by_ids(cls, ids: Mapping[str, int], *, are_words: bool = False) -> Self:
        def found(names: Sequence[str]) -> list[int]:
            usual = [
                name for name in names if not (are_words and name.islower() and name.isalpha())
            ]
            return [ids[name] for name in usual if name in ids]

        pad, unknown, begin = (
            next(iter(found(names)), None) for names in (PAD_TOKENS, UNKNOWN_TOKENS, BEGIN_TOKENS)
        )
        return cls(pad, unknown, begin, tuple(found(END_TOKENS)))

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids of all special tokens, in order."""
        single = (self.pad, self.unknown, self.begin)
        return tuple(sorted({*(i for i in single if i is not None), *self.end}))

    @property
    def before_text(self) -> tuple[int, ...]:
        """The ids that begin every prompt."""
        return (self.begin,) if self.is_begin_added and self.begin is not None else ()

    def to_json(self) -> dict[str, JsonValue]:
        """Return the ids as JSON values; `from_json` is the inverse."""
        value = asdict(self) | {"end": list(self.end)}
        return value if value.pop("is_begin_added") is False else value | {"is_begin_added": True}

    @classmethod
    def from_json(cls, value: JsonValue) -> Self:
        """Read the value of `to_json`. Raises TypeError or KeyError."""
        if not isinstance(value, dict):
            raise TypeError("special is not an object")
        end = value["end"]
        if not isinstance(end, list):
            raise TypeError("special.end is not a list of ids")
        single = (value["pad"], value["unknown"], value["begin"])
        if not all(i is None or type(i) is int for i in single) or {type(i) for i in end} - {int}:
            raise TypeError("special has something that is not an id")
        pad, unknown, begin = single
        is_added = value.get("is_begin_added") is True
        return cls(pad, unknown, begin, tuple(end), is_added)  # type: ignore[arg-type]


_NAMES = frozenset((*UNKNOWN_TOKENS, *PAD_TOKENS, *BEGIN_TOKENS, *END_TOKENS))


def _named_ids(tokens: Sequence[str]) -> dict[str, int]:
    """Return the ids of the tokens that have a usual name of a special token."""
    return {token: i for i, token in enumerate(tokens) if token in _NAMES}
