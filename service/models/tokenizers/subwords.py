"""The tokenizer of subwords: a tokenizer.json, which the library `tokenizers` encodes with."""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Self

from pydantic import JsonValue
from tokenizers import Tokenizer as Library

from service.errors import BadCheckpoint, CarouselError, UnknownCharacter
from service.models.tokenizers.special_tokens import SpecialTokens, UnknownPolicy
from service.models.tokenizers.subword_json import checked_json, components
from service.models.tokenizers.token_bytes import TokenBytes, byte_alphabet, joiner_of
from service.models.tokenizers.tokenizer import Tokenizer, TokenOffsets

TOKENIZER_JSON = "tokenizer.json"


class SubwordTokenizer(Tokenizer):
    """Encodes as the library `tokenizers` does with the same file (BPE, WordPiece, unigram).

    The text of a special token in a prompt is text like any other.
    """

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
        with _errors_of_library(BadCheckpoint, "tokenizer.json cannot be read"):
            added = self._library.get_added_tokens_decoder()
            decoders = _decoders(self._library)
        marked = {i for i, token in added.items() if token.special}
        self._is_by_name = special is None
        super().__init__(
            tokens, unknown, special or _special_tokens(tokens, marked, value["model"])
        )
        self._hidden = frozenset(marked | {*self.special.ids})
        self._special_ids = tuple(sorted(self._hidden))
        self._decoder_names = ", ".join(str(decoder["type"]) for decoder in decoders) or "(none)"
        self._prefix = next((d["prefix"] for d in decoders if d["type"] == "WordPiece"), "")
        self.joiner = joiner_of(decoders)
        to_bytes = TokenBytes(decoders)
        self._bytes = tuple(
            b"" if i in self._hidden else to_bytes.of(token) for i, token in enumerate(tokens)
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
            raise BadCheckpoint(f"the bundle has no {TOKENIZER_JSON}")
        try:
            special = SpecialTokens.from_json(options["special"]) if "special" in options else None
        except (KeyError, TypeError) as error:
            raise BadCheckpoint(f"the tokenizer's options cannot be read: {error}") from error
        tokenizer = cls(files[TOKENIZER_JSON], unknown, special)
        if tokenizer.tokens != tuple(tokens):
            raise BadCheckpoint(f"the tokens of {TOKENIZER_JSON} are not those of the vocabulary")
        return tokenizer

    def encode_with_offsets(self, text: str) -> list[TokenOffsets]:
        """Return (id, start, stop) of each token. Raises UnknownCharacter under `error`.

        The tokens of one character that consists of several have the same offsets.
        """
        with _errors_of_library(UnknownCharacter, "tokenizer.json cannot encode the text"):
            encoding = self._library.encode(text, add_special_tokens=False)
            ids, offsets = encoding.ids, encoding.offsets
        out: list[TokenOffsets] = []
        for token, (start, stop) in zip(ids, offsets, strict=True):
            known: int | None = token
            if token in self._hidden:  # the model of the file has no other token for this text
                known = self._unknown_token(text[start:stop], start)
            if known is not None:
                out.append((known, start, stop))
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

    def check_decoder(self, n_sequences: int = 1000, length: int = 12, seed: int = 0) -> None:
        """Raise BadCheckpoint if a text of random tokens is not the one that the library decodes.

        A sequence begins with a token that may begin a text. With byte fallback a text that is not
        whole UTF-8 is left out: the library writes one U+FFFD for each byte.
        """
        rng = random.Random(seed)  # noqa: S311 (no secret)
        everything = [i for i in range(len(self)) if i not in self._hidden]
        whole = [i for i in everything if self._bytes[i] and _is_text(self._bytes[i])]
        first = [i for i in whole if self._may_begin(i)]
        if not first:
            raise BadCheckpoint(
                "no token of tokenizer.json may begin a text, so that its decoder, "
                f"{self._decoder_names}, cannot be checked; it is not served"
            )
        has_fallback = "ByteFallback" in self._decoder_names
        for i in range(n_sequences):
            ids = [rng.choice(first), *rng.choices(whole if i % 2 else everything, k=length)]
            if has_fallback and not _is_text(b"".join(self._bytes[token] for token in ids)):
                ids = [rng.choice(first), *rng.choices(whole, k=length)]
            with _errors_of_library(BadCheckpoint, "tokenizer.json cannot decode its tokens"):
                expected = self._library.decode(ids)
            if self.decode(ids, is_start=True) != expected:
                raise BadCheckpoint(
                    f"the decoder of tokenizer.json, {self._decoder_names}, writes some tokens "
                    "depending on the tokens around them, so that a text cannot be written token "
                    "by token; it is not served"
                )

    def _may_begin(self, token: int) -> bool:
        """Return whether the library writes a token at the start of a text as anywhere else.

        It keeps the prefix of a part of a word there, and leaves out more than one blank.
        """
        if self._prefix and self.tokens[token].startswith(self._prefix):
            return False
        return not self.joiner or b" " not in self._bytes[token][1:]

    def _unknown_token(self, piece: str, offset: int) -> int | None:
        if self.unknown is UnknownPolicy.SKIP:
            return None
        if self.unknown is UnknownPolicy.UNK:
            return self.special.unknown
        raise UnknownCharacter(
            f"the model has no token for {piece[:40]!r} at offset {offset} of the text; leave it "
            "out, or import the model to skip unknown characters"
        )

    def _check_unknown(self, value: Mapping[str, Any]) -> None:
        """Check that a text without a token is noticed, or is to be skipped."""
        model = value["model"]
        parts = [*components(value, "pre_tokenizer"), *components(value, "normalizer")]
        known = frozenset(self.tokens)
        has_all = self.special.unknown is not None
        if model.get("byte_fallback") is True:
            has_all |= all(f"<0x{byte:02X}>" in known for byte in range(256))
        if any(part["type"] == "ByteLevel" for part in parts):
            has_all |= known.issuperset(byte_alphabet())
        if has_all or (model["type"] == "BPE" and self.unknown is UnknownPolicy.SKIP):
            return
        if model["type"] == "BPE":
            raise BadCheckpoint(
                "tokenizer.json has no unknown token and leaves out characters that have no token; "
                "import the model to skip unknown characters, which is the same"
            )
        raise BadCheckpoint(
            f"the {model['type']} model of tokenizer.json has no unknown token in its vocabulary, "
            "so that some texts cannot be encoded; it is not served"
        )


@contextmanager
def _errors_of_library(raised: type[CarouselError], sentence: str) -> Iterator[None]:
    """Raise what the library raises, a panic included, as `raised`."""
    try:
        yield
    except BaseException as error:  # a panic of the library is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise raised(f"{sentence}: {error}"[:300]) from error


def _load(value: Mapping[str, Any]) -> Library:
    # A text is encoded as it is: neither cut, nor padded, nor between special tokens.
    plain = {**value, "truncation": None, "padding": None, "post_processor": None}
    with _errors_of_library(BadCheckpoint, "tokenizer.json cannot be read"):
        library = Library.from_str(json.dumps(plain))
        library.encode_special_tokens = True
    return library


def _tokens(library: Library) -> tuple[str, ...]:
    with _errors_of_library(BadCheckpoint, "tokenizer.json cannot be read"):
        ids = library.get_vocab(with_added_tokens=True)
    if sorted(ids.values()) != list(range(len(ids))):
        raise BadCheckpoint(f"the ids of tokenizer.json are not 0 to {len(ids) - 1}, each once")
    return tuple(sorted(ids, key=ids.__getitem__))


def _decoders(library: Library) -> list[dict[str, Any]]:
    """Return the decoders as the library writes them, with all their options."""
    if library.decoder is None:
        return []
    return components({"decoder": json.loads(library.decoder.__getstate__())}, "decoder")


def _special_tokens(
    tokens: Sequence[str], marked: set[int], model: Mapping[str, Any]
) -> SpecialTokens:
    """Find special tokens by their names; the unknown one is that of the file's model."""
    found = SpecialTokens.by_marked_name(tokens, marked)
    unknown = model.get("unk_id") if model["type"] == "Unigram" else None
    if isinstance(name := model.get("unk_token"), str) and name in tokens:
        unknown = tokens.index(name)
    return replace(found, unknown=unknown)


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True
