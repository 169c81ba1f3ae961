"""Tokenizers: from text to the token ids of a vocabulary, and back. One file for each kind."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from pydantic import JsonValue

from service.errors import BadCheckpoint
from service.models.tokenizers.characters import CharacterTokenizer
from service.models.tokenizers.special_tokens import UnknownPolicy
from service.models.tokenizers.subword_text_encoder import SubwordTextEncoder
from service.models.tokenizers.subwords import SubwordTokenizer
from service.models.tokenizers.tokenizer import Tokenizer
from service.models.tokenizers.words import WordTokenizer

Reader = Callable[
    [Sequence[str], UnknownPolicy, Mapping[str, JsonValue], Mapping[str, bytes]], Tokenizer
]

TOKENIZERS: Mapping[str, Reader] = MappingProxyType(
    {
        CharacterTokenizer.kind: CharacterTokenizer.read,
        WordTokenizer.kind: WordTokenizer.read,
        SubwordTokenizer.kind: SubwordTokenizer.read,
        SubwordTextEncoder.kind: SubwordTextEncoder.read,
    }
)
"""How each kind of tokenizer is read, by the name of its kind."""


def read_tokenizer(
    tokens: Sequence[str],
    unknown: UnknownPolicy,
    options: Mapping[str, JsonValue],
    files: Mapping[str, bytes] = MappingProxyType({}),
) -> Tokenizer:
    """Read a tokenizer from a bundle; `options` and `files` are those of `Tokenizer`.

    Raises BadCheckpoint.
    """
    read = TOKENIZERS.get(str(options.get("kind", CharacterTokenizer.kind)))
    if read is None:
        raise BadCheckpoint(
            f"the tokenizer's kind is {str(options.get('kind'))[:80]!r}; known are "
            f"{', '.join(TOKENIZERS)}"
        )
    return read(tokens, unknown, options, files)
