"""The tokenizer: one token per Unicode code point, and a policy for unknown characters."""

import json
import re
from collections.abc import Iterable, Sequence
from enum import StrEnum

from service.errors import BadCheckpoint, UnknownCharacter

MAX_VOCABULARY = 65_536
_UNKNOWN_TOKENS = ("[UNK]", "<unk>", "<UNK>", "UNK", "unk", "<OOV>", "OOV")
_PAD_TOKENS = ("", "<pad>", "<PAD>", "[PAD]", "PAD", "pad", "[MASK]", "<mask>")
_BEGIN_TOKENS = (
    "[START]",
    "[BOS]",
    "<s>",
    "<bos>",
    "<BOS>",
    "<sos>",
    "<SOS>",
    "<start>",
    "<START>",
)
_END_TOKENS = ("[END]", "[EOS]", "</s>", "<eos>", "<EOS>", "<end>", "<END>", "<|endoftext|>")
_LINE_ESCAPES = {"\\n": "\n", "\\r": "\r", "\\t": "\t", "\\\\": "\\"}


class UnknownPolicy(StrEnum):
    """The treatment of a prompt's character that has no token."""

    ERROR = "error"
    SKIP = "skip"
    UNK = "unk"


class Tokenizer:
    """Converts text to token ids and back.

    A token of one character represents it. A token of any other length (`[UNK]`, `<pad>`) is
    special: text is never encoded as it, and it is never sampled.
    """

    def __init__(self, tokens: Iterable[str], unknown: UnknownPolicy = UnknownPolicy.ERROR) -> None:
        """Raises BadCheckpoint if the tokens are not a valid vocabulary."""
        self.tokens: tuple[str, ...] = tuple(tokens)
        self.unknown = unknown
        _check_tokens(self.tokens)
        self._ids = {token: i for i, token in enumerate(self.tokens)}
        self.special_ids = tuple(i for i, token in enumerate(self.tokens) if len(token) != 1)
        self._texts = tuple("" if len(token) != 1 else token for token in self.tokens)
        self.unk_id = next((self._ids[t] for t in _UNKNOWN_TOKENS if t in self._ids), None)
        if unknown is UnknownPolicy.UNK and self.unk_id is None:
            raise BadCheckpoint(
                "unknown_character is 'unk', but the vocabulary has no unknown token; "
                f"it would be one of {', '.join(_UNKNOWN_TOKENS)}"
            )

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of `text`. Raises UnknownCharacter under the policy `error`."""
        return [i for i, _, _ in self.encode_with_offsets(text)]

    def encode_with_offsets(self, text: str) -> list[tuple[int, int, int]]:
        """Return (id, start, stop) of each token, offsets in characters. Raises as `encode`."""
        ids, out = self._ids, []
        for offset, character in enumerate(text):
            token = ids.get(character)
            if token is None:
                token = self._unknown_token(character, offset)
            if token is not None:
                out.append((token, offset, offset + 1))
        return out

    def text_of(self, token: int) -> str:
        """Return the text of one token: empty if it is special."""
        return self._texts[token]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids. Raises IndexError on an id outside the vocabulary."""
        texts = self._texts
        return "".join([texts[i] for i in ids])

    def _unknown_token(self, character: str, offset: int) -> int | None:
        if self.unknown is UnknownPolicy.SKIP:
            return None
        if self.unknown is UnknownPolicy.UNK:
            return self.unk_id
        raise UnknownCharacter(
            f"the model has no token for {character!r} (U+{ord(character):04X}) at offset {offset} "
            "of the text; leave it out, or import the model to skip unknown characters"
        )


def _check_tokens(tokens: Sequence[str]) -> None:
    if not 2 <= len(tokens) <= MAX_VOCABULARY:
        raise BadCheckpoint(
            f"the vocabulary has {len(tokens)} tokens; 2 to {MAX_VOCABULARY} are served"
        )
    seen: set[str] = set()
    for i, token in enumerate(tokens):
        if token in seen:
            raise BadCheckpoint(f"token {i} of the vocabulary, {token[:40]!r}, is there twice")
        if any("\ud800" <= character <= "\udfff" for character in token):
            raise BadCheckpoint(f"token {i} of the vocabulary is a lone surrogate, not a character")
        seen.add(token)


def check_tokens_are_characters(tokens: Sequence[str]) -> None:
    """Refuse tokens that would silently be missing from every text: words and ends of a text.

    A token that pads, begins a text or stands for unknown characters is never part of one. Raises
    BadCheckpoint.
    """
    missing = {*_UNKNOWN_TOKENS, *_PAD_TOKENS, *_BEGIN_TOKENS}
    for i, token in enumerate(tokens):
        if len(token) == 1 or token in missing:
            continue
        if token in _END_TOKENS:
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
