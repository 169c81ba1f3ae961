"""The interface of a tokenizer.

A token is a fixed sequence of bytes, and the text of a sequence of tokens is the UTF-8 text of the
bytes of all of them. So what a token adds to a text depends on nothing but a character that the
tokens before it have begun. Where words are joined by a blank, each word's bytes begin with it, and
the first one of a whole text is left out.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

from pydantic import JsonValue

from service.errors import BadCheckpoint
from service.models.tokenizers.special_tokens import SpecialTokens, UnknownPolicy

_SURROGATE = re.compile("[\ud800-\udfff]")
MAX_VOCABULARY = 131_072

_NO_FILES: Mapping[str, bytes] = MappingProxyType({})

TokenOffsets = tuple[int, int, int]  # id, start, stop; offsets in characters of the text


class Tokenizer(ABC):
    """Converts text to token ids and back. Immutable; any thread may call it."""

    kind: ClassVar[str]  # the name of the kind in manifests
    joiner: str = ""  # what the text of a token begins with, but for the first of a text

    def __init__(
        self, tokens: Sequence[str], unknown: UnknownPolicy, special: SpecialTokens
    ) -> None:
        """Raises BadCheckpoint if the tokens are not a valid vocabulary."""
        self.tokens = tuple(tokens)
        self.unknown, self.special = unknown, special
        _check_tokens(self.tokens)
        if unknown is UnknownPolicy.UNK and special.unknown is None:
            raise BadCheckpoint(
                "unknown_character is 'unk', but the vocabulary has no unknown token; name it "
                "[UNK], <unk>, <UNK>, UNK, unk, <OOV> or OOV"
            )

    def __len__(self) -> int:
        return len(self.tokens)

    # -- text → tokens

    @abstractmethod
    def encode_with_offsets(self, text: str) -> list[TokenOffsets]:
        """Return (id, start, stop) of each token. Raises UnknownCharacter under `error`."""

    def encode(self, text: str) -> list[int]:
        """Return the token ids of `text`. Raises as `encode_with_offsets`."""
        return [token for token, _, _ in self.encode_with_offsets(text)]

    def encode_prompt(self, text: str) -> list[int]:
        """Return the ids of a prompt: of an empty one the token that begins a text, if any.

        With `special.is_begin_added` that token begins every prompt.
        """
        ids, special = self.encode(text), self.special
        is_added = special.begin is not None and (special.is_begin_added or not ids)
        return [special.begin, *ids] if is_added and special.begin is not None else ids

    # -- tokens → text

    @abstractmethod
    def bytes_of(self, token: int) -> bytes:
        """Return what a token adds to a text, in UTF-8: nothing if it is special."""

    def text_of(self, token: int) -> str:
        """Return the text of a token by itself; U+FFFD for a part of a character."""
        return self.bytes_of(token).decode("utf-8", "replace")

    def decode(self, ids: Iterable[int], *, is_start: bool = False) -> str:
        """Return the text that token ids add to a text; with `is_start` they begin it.

        Raises IndexError on an id outside the vocabulary.
        """
        text = b"".join(map(self.bytes_of, ids)).decode("utf-8", "replace")
        return text.removeprefix(self.joiner) if is_start else text

    @property
    def has_partial_characters(self) -> bool:
        """Whether some token is a part of a character, so that `DecodeStream` has to be used."""
        return False

    @property
    def has_several_encodings(self) -> bool:
        """Whether several sequences of tokens have the same text, as with subwords."""
        return False

    # -- special tokens

    @property
    @abstractmethod
    def special_ids(self) -> tuple[int, ...]:
        """The ids of tokens without a text, in order. Those of `special` are among them."""

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The ids of tokens that may be sampled and end the text."""
        return self.special.end

    @property
    def suppressed_ids(self) -> tuple[int, ...]:
        """The ids of tokens that are never sampled."""
        return tuple(i for i in self.special_ids if i not in self.special.end)

    # -- bundles

    @property
    def options(self) -> Mapping[str, JsonValue]:
        """What a bundle's manifest says of the tokenizer; empty for characters by their names."""
        return {"kind": self.kind}

    @property
    def files(self) -> Mapping[str, bytes]:
        """The files, by name, that a bundle has for this tokenizer beside its vocabulary."""
        return _NO_FILES


def _check_tokens(tokens: Sequence[str]) -> None:
    if not 2 <= len(tokens) <= MAX_VOCABULARY:
        raise BadCheckpoint(
            f"the vocabulary has {len(tokens)} tokens; 2 to {MAX_VOCABULARY} are served"
        )
    if len({*tokens}) == len(tokens) and not _SURROGATE.search("".join(tokens)):
        return
    seen: set[str] = set()
    for i, token in enumerate(tokens):
        if token in seen:
            raise BadCheckpoint(f"token {i} of the vocabulary, {token[:40]!r}, is there twice")
        if _SURROGATE.search(token):
            raise BadCheckpoint(f"token {i} of the vocabulary is a lone surrogate, not a character")
        seen.add(token)
