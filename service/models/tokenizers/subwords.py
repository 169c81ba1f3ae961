"""The tokenizer of subwords: a tokenizer.json, which the library `tokenizers` encodes with."""

import json
import random
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self

from pydantic import JsonValue
from tokenizers import Tokenizer as Library

from service.errors import BadCheckpoint, UnknownCharacter
from service.models.tokenizers.special_tokens import SpecialTokens, UnknownPolicy
from service.models.tokenizers.subword_json import checked_json, components
from service.models.tokenizers.token_bytes import TokenBytes, joiner_of
from service.models.tokenizers.tokenizer import Tokenizer, TokenOffsets

TOKENIZER_JSON = "tokenizer.json"


class SubwordTokenizer(Tokenizer):
    """Encodes as the library `tokenizers` does with the same file (BPE, WordPiece, unigram)."""

    kind = "subwords"

    def __init__(
        self,
        content: bytes,
        unknown: UnknownPolicy = UnknownPolicy.ERROR,
        special: SpecialTokens | None = None,
    ) -> None:
        """`content` is that of tokenizer.json; `special` None finds special tokens by their names.

        Raises BadCheckpoint if the file cannot be served.
        """
        value = checked_json(content)
        self._library = _load(value)
        tokens = _tokens(self._library)
        hidden = {
            i for i, added in self._library.get_added_tokens_decoder().items() if added.special
        }
        by_name = SpecialTokens.by_name(tokens, are_words=True)
        super().__init__(tokens, unknown, _with_unknown(by_name, value, tokens, special))
        self._is_by_name = special is None
        hidden |= {*self.special.ids}
        self._special_ids = tuple(sorted(hidden))
        decoders = components(value, "decoder")
        self.joiner = joiner_of(decoders)
        to_bytes = TokenBytes(decoders)
        self._bytes = tuple(
            b"" if i in hidden else to_bytes.of(token) for i, token in enumerate(tokens)
        )
        self._has_partial = not all(map(_is_text, self._bytes))
        self._files = MappingProxyType({TOKENIZER_JSON: content})
        self._check_unknown(value)

    @classmethod
    def read(
        cls,
        tokens: Sequence[str],
        unknown: UnknownPolicy,
        options: Mapping[str, JsonValue],
        files: Mapping[str, bytes],
    ) -> Self:
        """Read the tokenizer of a bundle. Raises BadCheckpoint."""
        if TOKENIZER_JSON not in files:
            raise BadCheckpoint("the bundle has no tokenizer.json")
        try:
            special = SpecialTokens.from_json(options["special"]) if "special" in options else None
        except (KeyError, TypeError) as error:
            raise BadCheckpoint(f"the tokenizer's options cannot be read: {error}") from error
        tokenizer = cls(files[TOKENIZER_JSON], unknown, special)
        if tokenizer.tokens != tuple(tokens):
            raise BadCheckpoint("the tokens of tokenizer.json are not those of the vocabulary")
        return tokenizer

    def encode_with_offsets(self, text: str) -> list[TokenOffsets]:
        """Return (id, start, stop) of each token. Raises UnknownCharacter under `error`.

        The tokens of one character that consists of several have the same offsets.
        """
        try:
            encoding = self._library.encode(text, add_special_tokens=False)
        except BaseException as error:  # a panic of the library is no Exception
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise UnknownCharacter(f"tokenizer.json cannot encode the text: {error}") from error
        out: list[TokenOffsets] = []
        unknown, policy = self.special.unknown, self.unknown
        for token, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
            if token != unknown or policy is UnknownPolicy.UNK:
                out.append((token, start, stop))
            elif policy is UnknownPolicy.ERROR:
                raise UnknownCharacter(
                    f"the model has no token for {text[start:stop][:40]!r} at offset {start} of "
                    "the text; leave it out, or import the model to skip unknown characters"
                )
        return out

    def bytes_of(self, token: int) -> bytes:
        """Return what the token adds to a text that is not empty; nothing if it is special."""
        return self._bytes[token]

    @property
    def has_partial_characters(self) -> bool:
        """Whether some token is a part of a character."""
        return self._has_partial

    @property
    def has_several_encodings(self) -> bool:
        """True: a subword can be written by shorter ones."""
        return True

    @property
    def special_ids(self) -> tuple[int, ...]:
        """The ids of the file's special tokens and of those of `special`."""
        return self._special_ids

    @property
    def options(self) -> Mapping[str, JsonValue]:
        """The kind, and the special tokens if they were given."""
        special = {} if self._is_by_name else {"special": self.special.to_json()}
        return {"kind": self.kind, **special}

    @property
    def files(self) -> Mapping[str, bytes]:
        """The content of tokenizer.json."""
        return self._files

    def check_decoder(self, sequences: int = 1000, length: int = 12, seed: int = 0) -> None:
        """Raise BadCheckpoint if a text of random tokens is not the one that the library decodes.

        Sequences that end within a character are left out: their text is U+FFFD in either.
        """
        rng = random.Random(seed)  # noqa: S311 (no secret)
        plain = [i for i, token in enumerate(self._bytes) if token and _is_text(token)]
        first = [i for i in plain if self._text([i]) == self._decoded([i])]
        everything = [i for i in range(len(self)) if i not in frozenset(self._special_ids)]
        if not first:
            raise BadCheckpoint(self._unlike_library())
        compared = 0
        for attempt in range(20 * sequences):
            pool = plain if attempt % 2 else everything
            ids = [rng.choice(first), *rng.choices(pool, k=length)]
            if not _is_text(b"".join(self._bytes[i] for i in ids)):
                continue
            if self._text(ids) != self._decoded(ids):
                raise BadCheckpoint(self._unlike_library())
            compared += 1
            if compared == sequences:
                return

    def _text(self, ids: Sequence[int]) -> str:
        return self.decode(ids, is_start=True)

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self._library.decode(list(ids)))

    def _unlike_library(self) -> str:
        value = json.loads(self._files[TOKENIZER_JSON])
        names = ", ".join(str(d["type"]) for d in components(value, "decoder")) or "(none)"
        return (
            f"the decoder of tokenizer.json, {names}, writes some tokens depending on the tokens "
            "around them, so that a text cannot be written token by token; it is not served"
        )

    def _check_unknown(self, value: Mapping[str, Any]) -> None:
        model = value["model"]
        has_all = self.special.unknown is not None or model.get("byte_fallback") is True
        levels = [*components(value, "pre_tokenizer"), *components(value, "normalizer")]
        if has_all or any(level["type"] == "ByteLevel" for level in levels):
            return
        if model["type"] != "BPE":
            raise BadCheckpoint(
                f"the {model['type']} model of tokenizer.json has no unknown token in its "
                "vocabulary, so that some texts cannot be encoded; it is not served"
            )
        if self.unknown is not UnknownPolicy.SKIP:
            raise BadCheckpoint(
                "tokenizer.json leaves out characters without a token; import the model with "
                "unknown_character=skip, which is the same"
            )


def _load(value: Mapping[str, Any]) -> Library:
    # A text is encoded as it is: neither cut, nor padded, nor between special tokens.
    plain = {**value, "truncation": None, "padding": None, "post_processor": None}
    try:
        return Library.from_str(json.dumps(plain))
    except BaseException as error:  # a panic of the library is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise BadCheckpoint(f"tokenizer.json cannot be read: {error}"[:300]) from error


def _tokens(library: Library) -> tuple[str, ...]:
    ids = library.get_vocab(with_added_tokens=True)
    if sorted(ids.values()) != list(range(len(ids))):
        raise BadCheckpoint(f"the ids of tokenizer.json are not 0 to {len(ids) - 1}, each once")
    return tuple(sorted(ids, key=ids.__getitem__))


def _with_unknown(
    by_name: SpecialTokens,
    value: Mapping[str, Any],
    tokens: Sequence[str],
    special: SpecialTokens | None,
) -> SpecialTokens:
    """Return the special tokens, where the file's own unknown token is the unknown one."""
    if special is not None:
        return special
    model = value["model"]
    unknown = model.get("unk_id") if model["type"] == "Unigram" else None
    if isinstance(name := model.get("unk_token"), str) and name in tokens:
        unknown = tokens.index(name)
    return SpecialTokens(by_name.pad, unknown, by_name.begin, by_name.end)


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True
