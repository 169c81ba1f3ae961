"""Special tokens of a vocabulary: padding, unknown text, the beginning and the end of a text."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

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

    @classmethod
    def by_name(cls, tokens: Sequence[str]) -> Self:
        """Find the special tokens of a vocabulary by their usual names."""
        ids = {token: i for i, token in enumerate(tokens)}

        def first(names: Sequence[str]) -> int | None:
            return next((ids[name] for name in names if name in ids), None)

        end = tuple(ids[name] for name in END_TOKENS if name in ids)
        return cls(first(PAD_TOKENS), first(UNKNOWN_TOKENS), first(BEGIN_TOKENS), end)
