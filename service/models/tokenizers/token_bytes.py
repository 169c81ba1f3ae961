"""The bytes of each token of a tokenizer.json, by its decoder.

The rules are those of the decoders of the library `tokenizers`, as far as a token's text does not
depend on the tokens around it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from service.errors import BadCheckpoint

_CLEANED = (
    *((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't")),
    *((" 'm", "'m"), (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re")),
)
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_alphabet() -> Mapping[str, int]:
    """Return the byte of each character in which byte-level BPE writes its tokens (GPT-2's)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + i): byte for i, byte in enumerate(others)
    }


def joiner_of(decoders: Sequence[Mapping[str, Any]]) -> str:
    """Return what the first token of a text is written without: a blank, or nothing."""
    if not decoders:
        return " "
    for decoder in decoders:
        kind = decoder["type"]
        if kind == "WordPiece" or (
            kind == "Metaspace" and decoder.get("prepend_scheme", "always") != "never"
        ):
            return " "
    is_fused = False
    for decoder in decoders:
        is_fused = is_fused or decoder["type"] == "Fuse"
        if is_fused and decoder["type"] == "Strip" and decoder.get("start") == 1:
            return " "
    return ""


class TokenBytes:
    """Returns the bytes that a token adds to a text that is not empty."""

    def __init__(self, decoders: Sequence[Mapping[str, Any]]) -> None:
        """Raises BadCheckpoint for decoders that work across tokens."""
        self._decoders = decoders
        self._alphabet = byte_alphabet()
        fused = False
        for decoder in decoders:
            kind = decoder["type"]
            whole = kind == "Strip" and (decoder.get("stop") or decoder.get("content") != " ")
            if fused and (kind not in {"Strip", "Fuse"} or whole or decoder.get("start", 0) > 1):
                raise BadCheckpoint(
                    f"the decoder {kind} of tokenizer.json works across tokens, so that a text "
                    "cannot be written token by token; it is not served"
                )
            fused = fused or kind == "Fuse"

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
        alphabet = self._alphabet
        if all(character in alphabet for character in token):
            return bytes([alphabet[character] for character in token])
        return token.encode()


def _decoded(token: str, decoder: Mapping[str, Any]) -> str:
    kind = decoder["type"]
    if kind == "Replace":
        pattern = decoder["pattern"]
        if "String" not in pattern:
            raise BadCheckpoint("the decoder Replace of tokenizer.json has a regular expression")
        return token.replace(pattern["String"], str(decoder["content"]))
    if kind == "Metaspace":
        return token.replace(decoder["replacement"], " ")
    if kind == "Strip":
        content, start, stop = decoder["content"], decoder["start"], decoder["stop"]
        for _ in range(min(start, len(token))):
            token = token.removeprefix(content)
        for _ in range(min(stop, len(token))):
            token = token.removesuffix(content)
        return token
    if kind == "WordPiece":
        prefix = decoder["prefix"]
        token = token[len(prefix) :] if token.startswith(prefix) else f" {token}"
        if decoder.get("cleanup"):
            for old, new in _CLEANED:
                token = token.replace(old, new)
    return token
