"""Vocabularies as people have them on disk: read from a file, or made from a training text."""

import json
import re
from collections.abc import Sequence

from service.errors import BadCheckpoint
from service.models.tokenizers.special_tokens import (
    BEGIN_TOKENS,
    END_TOKENS,
    PAD_TOKENS,
    UNKNOWN_TOKENS,
)

_LINE_ESCAPES = {"\\n": "\n", "\\r": "\r", "\\t": "\t", "\\\\": "\\"}


def check_tokens_are_characters(tokens: Sequence[str]) -> None:
    """Refuse tokens that would silently be missing from every text: words and ends of a text.

    A token that pads, begins a text or stands for unknown characters is never part of one. Raises
    BadCheckpoint.
    """
    missing = {*UNKNOWN_TOKENS, *PAD_TOKENS, *BEGIN_TOKENS}
    for i, token in enumerate(tokens):
        if len(token) == 1 or token in missing:
            continue
        if token in END_TOKENS:
            raise BadCheckpoint(
                f"token {i} of the vocabulary, {token!r}, ends a text, which is not served yet; "
                "name it '<pad>' in the vocabulary to have it never generated"
            )
        raise BadCheckpoint(
            f"token {i} of the vocabulary, {token[:40]!r}, has {len(token)} characters: models of "
            "words or of pieces of words are not served yet, only those of single characters"
        )


def read_vocabulary(content: bytes) -> tuple[str, ...]:
    r"""Read a vocabulary file: a JSON list, a JSON object {token: id}, or one token per line.

    In the last form a line `\n`, `\r`, `\t` or `\\` represents the character, which a line
    cannot contain. Raises BadCheckpoint.
    """
    text = _decode(content, "the vocabulary")
    if re.match(r"\s*[\[{]\s*[\"\]}]", text):
        return _from_json(text)
    lines = text.removesuffix("\n").split("\n")
    if "" in lines:
        raise BadCheckpoint(
            f"line {lines.index('') + 1} of the vocabulary is empty; write a line break as \\n"
        )
    return tuple(_LINE_ESCAPES.get(line, line) for line in lines)


def vocabulary_of_text(content: bytes) -> tuple[str, ...]:
    """Return the vocabulary `sorted(set(text))` of a training text. Raises BadCheckpoint."""
    return tuple(sorted(set(_decode(content, "the training text"))))


def _decode(content: bytes, what: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadCheckpoint(f"{what} is not UTF-8 from byte {error.start} on") from error


def _from_json(text: str) -> tuple[str, ...]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadCheckpoint(f"the vocabulary is not JSON: {error}") from error
    if isinstance(value, dict):
        ids = list(value.values())
        if any(type(i) is not int for i in ids) or sorted(ids) != list(range(len(ids))):
            raise BadCheckpoint(f"the vocabulary's ids are not 0 to {len(ids) - 1}, each once")
        value = sorted(value, key=value.__getitem__)
    if not all(isinstance(token, str) for token in value):
        raise BadCheckpoint("the vocabulary holds something that is not a string")
    return tuple(value)
