"""Tokenizers: from text to the token ids of a vocabulary, and back. One file for each kind."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from pydantic import JsonValue

from service.errors import BadCheckpoint
from service.models.tokenizers.characters import CharacterTokenizer
from service.models.tokenizers.special_tokens import UnknownPolicy
from service.models.tokenizers.subword_text_encoder import SubwordTextEncoder
from service.models.tokenizers.subwords import SubwordTokenizer
from service.models.tokenizers.tokenizer import Tokenizer
from service.models.tokenizers.words import WordTokenizer

TOKENIZERS: Mapping[str, type[Tokenizer]] = MappingProxyType(
    {
        kind.kind: kind
        for kind in (CharacterTokenizer, WordTokenizer, SubwordTokenizer, SubwordTextEncoder)
    }
)
"""The kinds of tokenizers by their names."""


def read_tokenizer(
    tokens: Sequence[str],
    unknown: UnknownPolicy,
    options: Mapping[str, JsonValue],
    files: Mapping[str, bytes] | None = None,
) -> Tokenizer:
    """Read a tokenizer from a bundle; `options`, `files` are the values of its properties.

    Raises BadCheckpoint.
    """
    return _kind(options).read(tokens, unknown, options, files or {})


def tokenizer_files(options: Mapping[str, JsonValue]) -> tuple[str, ...]:
    """Return the names of the files of a tokenizer that has these `Tokenizer.options`.

    Raises BadCheckpoint.
    """
    return _kind(options).file_names


def _kind(options: Mapping[str, JsonValue]) -> type[Tokenizer]:
    kind = TOKENIZERS.get(str(options.get("kind", CharacterTokenizer.kind)))
    if kind is None:
        raise BadCheckpoint(
            f"the tokenizer's kind is {str(options.get('kind'))[:80]!r}; known are "
            f"{', '.join(TOKENIZERS)}"
        )
    return kind
