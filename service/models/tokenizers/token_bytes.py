"""The bytes of each token of a tokenizer.json, by its decoder.

The rules are those of the decoders of the library `tokenizers`, as far as a token's text does not
depend on the tokens around it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from service.errors import BadCheckpoint

Decoder = Mapping[str, Any]

_CLEANED = (
    *((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't")),
    *((" 'm", "'m"), (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re")),
)
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>", re.IGNORECASE)
_FUSE = frozenset({"Fuse", "ByteLevel"})  # these write all tokens as one text


def byte_alphabet() -> Mapping[str, int]:
    """Return the byte of each character in which byte-level BPE writes its tokens (GPT-2's)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + i): byte for i, byte in enumerate(others)
    }


def joiner_of(decoders: Sequence[Decoder]) -> str:
    """Return what the first token of a text is written without: a blank, or nothing."""
    is_fused = False
    for decoder in decoders:
        kind = decoder["type"]
        if kind == "WordPiece" or (kind == "Metaspace" and decoder["prepend_scheme"] != "never"):
            return " "
        if is_fused and kind == "Strip" and decoder["start"] == 1:
            return " "
        is_fused = is_fused or kind in _FUSE
    return "" if decoders else " "


class TokenBytes:
    """Returns the bytes that a token adds to a text that is not empty."""

    def __init__(self, decoders: Sequence[Decoder]) -> None:
        """`decoders` are as the library writes them. Raises BadCheckpoint for those across tokens.

        Without decoders the tokens are joined by a blank.
        """
        self._decoders = decoders
        self._alphabet = byte_alphabet()
        is_fused = False
        for decoder in decoders:
            kind = decoder["type"]
            is_first_blank = (
                kind == "Strip"
                and decoder["content"] == " "
                and decoder["start"] <= 1
                and decoder["stop"] == 0
            )
            if is_fused and kind != "Fuse" and not is_first_blank:
                raise BadCheckpoint(
                    f"the decoder {kind} of tokenizer.json works across tokens, so that a text "
                    "cannot be written token by token; it is not served"
                )
            is_fused = is_fused or kind in _FUSE

    def of(self, token: str) -> bytes:
        """Return the bytes of a token that is not special."""
        if not self._decoders:
            return f" {token}".encode()
        for decoder in self._decoders:
            kind = decoder["type"]
            if kind == "Fuse":
                break
            if kind == "ByteFallback" and (match := _BYTE_TOKEN.fullmatch(token)):
                return bytes([int(match[1], 16)])
            if kind == "ByteLevel":
                return self._of_byte_level(token)
            token = _decoded(token, decoder)
        return token.encode()

    def _of_byte_level(self, token: str) -> bytes:
        try:
            return bytes(map(self._alphabet.__getitem__, token))
        except KeyError:  # an added token that is text
            return token.encode()


def _decoded(token: str, decoder: Decoder) -> str:
    kind = decoder["type"]
    if kind == "Replace":
        if "String" not in decoder["pattern"]:
            raise BadCheckpoint(
                "the decoder Replace of tokenizer.json has a regular expression; only a text is "
                "served"
            )
        return token.replace(decoder["pattern"]["String"], decoder["content"])
    if kind == "Metaspace":
        return token.replace(decoder["replacement"], " ")
    if kind == "Strip":
        for _ in range(min(decoder["start"], len(token))):
            token = token.removeprefix(decoder["content"])
        for _ in range(min(decoder["stop"], len(token))):
            token = token.removesuffix(decoder["content"])
        return token
    if kind == "WordPiece":
        prefix = decoder["prefix"]
        token = token[len(prefix) :] if token.startswith(prefix) else f" {token}"
        if decoder["cleanup"]:
            for old, new in _CLEANED:
                token = token.replace(old, new)
    return token
