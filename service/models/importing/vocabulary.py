"""Vocabularies as people have them on disk: tokens in the order of their ids, and what is stated.

Forms: a JSON list; `{token: id}` from 0 or 1; `{id: token}`; a pair of both; one token a line; a
Keras Tokenizer's `to_json()`; a Hugging Face tokenizer.json; a SubwordTextEncoder's file.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from service.errors import BadCheckpoint
from service.models.importing.unsupported import is_pickle
from service.models.tokenizers.word_rules import KERAS_FILTERS, WordRules, keras_rules

_LINE_ESCAPES = {"\\n": "\n", "\\r": "\r", "\\t": "\t", "\\\\": "\\"}
_SUBWORD_TEXT_ENCODER = "### SubwordTextEncoder"
_PICKLE = (
    "the vocabulary is a pickle, which is a program, and nothing in a file is ever executed; in "
    "Python: `import json, pickle` and `json.dump(pickle.load(open(a, 'rb')).word_index, "
    "open(b, 'w'))`, or for a Keras Tokenizer `open(b, 'w').write(tokenizer.to_json())`"
)
_GIVE_TEXT = "if it is the training text, give it as `vocabulary_text` (--vocabulary-text)"
_TOKEN_WORDS, _TOKEN_CHARACTERS = 2, 50  # at most in a token
_FORMS = (
    "a JSON list of tokens in the order of their ids, or a JSON object {token: id}; one token a "
    "line, a Keras Tokenizer's to_json() and a Hugging Face tokenizer.json are read, too"
)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens in the order of their ids from `first_id` on, and what the file states of them.

    `tokenizer` is keras_words, keras_characters, subwords, subword_text_encoder, or None where the
    file does not state it; `content` is the file of the latter two.
    """

    tokens: tuple[str, ...]
    first_id: int = 0
    tokenizer: str | None = None
    rules: WordRules | None = None
    is_lower: bool = False
    unknown_token: str | None = None
    num_words: int | None = None  # of a Keras Tokenizer
    content: bytes = b""
    is_single_text: bool = False  # textgenrnn's: no token begins a text


def read_vocabulary(content: bytes) -> Vocabulary:
    r"""Read a vocabulary file in any of its forms.

    In a file of one token a line, `\n`, `\r`, `\t` or `\\` represents the character, which a line
    cannot contain. Raises BadCheckpoint.
    """
    if is_pickle(content):
        raise BadCheckpoint(_PICKLE)
    text = decode(content, "the vocabulary").removeprefix("\ufeff")
    if text.startswith(_SUBWORD_TEXT_ENCODER):
        return Vocabulary((), tokenizer="subword_text_encoder", content=content)
    if re.match(r"\s*[\[{\"]", text) and (value := _json(text)) is not None:
        return _of_json(value, content)
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    if sum(map(_is_of_text, lines)) * 2 > len(lines):
        raise BadCheckpoint(
            "most lines of the vocabulary have several words, as those of a text, not of one "
            f"token a line: {_GIVE_TEXT}"
        )
    if "" in lines[1:]:
        raise BadCheckpoint(
            f"line {lines.index('', 1) + 1} of the vocabulary is empty; write a line break as "
            f"\\n, or {_GIVE_TEXT}"
        )
    return Vocabulary(tuple(_LINE_ESCAPES.get(line, line) for line in lines))


def _is_of_text(line: str) -> bool:
    """Whether a line is too long for a token: three words, or a verse without blanks."""
    return len(line.split()) > _TOKEN_WORDS or len(line) > _TOKEN_CHARACTERS


def decode(content: bytes, what: str) -> str:
    """Decode UTF-8; `what` is the file in the message. Raises BadCheckpoint."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        encoding = _encoding_of(content)
        raise BadCheckpoint(
            f"{what} is not UTF-8 from byte {error.start} on; it can be read as {encoding}: save "
            "it again in UTF-8, with the characters that the model was trained on"
        ) from error


def _encoding_of(content: bytes) -> str:
    for mark, encoding in ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if content.startswith(mark):
            return encoding
    for encoding in ("gb18030", "cp1252"):
        # Chinese text has most of its bytes above 0x80; a Western one few.
        if encoding == "gb18030" and sum(byte >= 0x80 for byte in content[:4096]) < 1024:
            continue
        try:
            content.decode(encoding)
        except UnicodeDecodeError:
            continue
        return encoding
    return "latin-1"


def _json(text: str) -> Any:
    """Read JSON, and JSON in a string of JSON; None if a text of lines only looks like it."""
    try:
        value = json.loads(text)
        return json.loads(value) if isinstance(value, str) and value[:1] in "[{" else value
    except (ValueError, RecursionError) as error:
        if "\n" in text.strip() and not re.match(r"\s*[\[{]\s*[\"\[{\]}]", text):
            return None
        raise BadCheckpoint(f"the vocabulary is not JSON: {error}") from error


def _of_json(value: Any, content: bytes) -> Vocabulary:
    if isinstance(value, str):
        raise BadCheckpoint(
            f"the vocabulary is one string of {len(value)} characters, which does not say that "
            f"they are tokens in the order of their ids; give {_FORMS}"
        )
    if isinstance(value, dict):
        if value.get("class_name") == "Tokenizer" and isinstance(value.get("config"), dict):
            return _of_keras_tokenizer(value["config"])
        if isinstance(value.get("model"), dict) and "added_tokens" in value:
            return Vocabulary((), tokenizer="subwords", content=content)
        return _of_map(value)
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        return _of_pair(value)
    if not isinstance(value, list) or not all(isinstance(token, str) for token in value):
        raise BadCheckpoint(f"the vocabulary holds something that is not a string; give {_FORMS}")
    return Vocabulary(tuple(value))


def _of_pair(value: Sequence[Mapping[str, Any]]) -> Vocabulary:
    """Read [char2id, id2char]: the first says all."""
    found = [_of_map(part) for part in value[:2]]
    if any((one.tokens, one.first_id) != (found[0].tokens, found[0].first_id) for one in found):
        raise BadCheckpoint(f"the two maps of the vocabulary do not agree; give {_FORMS}")
    return found[0]


def _of_map(value: Mapping[str, Any]) -> Vocabulary:
    """Read {token: id} or {id: token}; ids may be strings of digits."""
    items: dict[str, Any] = dict(value)
    ids = {token: _id(i) for token, i in items.items()}
    is_turned = None in ids.values()
    if not is_turned and all(isinstance(i, str) for i in items.values()):
        is_turned = {str(i) for i in items.values()} != set(items)
        if not is_turned and any(items[str(i)] != token for token, i in items.items()):
            raise BadCheckpoint(
                "the vocabulary maps digits to digits, and both ways of reading it fit; write the "
                "ids as numbers: {token: id}"
            )
    if is_turned:
        turned = [(_id(i), token) for i, token in items.items()]
        if any(i is None or not isinstance(token, str) for i, token in turned):
            raise BadCheckpoint(f"the vocabulary is no map from tokens to ids; give {_FORMS}")
        ids = {str(token): i for i, token in turned}
        if len(ids) < len(turned):
            raise BadCheckpoint("the vocabulary has two ids for one token; every token has one")
    ordered = sorted((i, token) for token, i in ids.items() if i is not None)
    first = ordered[0][0] if ordered else 0
    if first not in (0, 1) or [i for i, _ in ordered] != list(range(first, first + len(ordered))):
        raise BadCheckpoint(
            f"the vocabulary's ids are not {first if first in (0, 1) else 0} to "
            f"{len(ordered) - (first != 1)}, each once: they go from {first} to "
            f"{ordered[-1][0] if ordered else first} for {len(ordered)} tokens"
        )
    return Vocabulary(tuple(token for _, token in ordered), first)


def _id(value: object) -> int | None:
    if type(value) is int:
        return value
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):
        return int(value)
    return None


def _of_keras_tokenizer(config: Mapping[str, Any]) -> Vocabulary:
    """Read the config of a Keras `Tokenizer`, whose dictionaries are JSON in strings."""
    index, is_lower = config.get("word_index"), config.get("lower") is not False
    if isinstance(index, str):
        index = _json(index)
    if not isinstance(index, dict) or not index:
        raise BadCheckpoint("the Tokenizer has no word_index: it was saved before fit_on_texts")
    vocabulary, oov = _of_map(index), config.get("oov_token")
    oov = oov if isinstance(oov, str) else None
    if config.get("char_level") is True:
        return replace(
            vocabulary, tokenizer="keras_characters", is_lower=is_lower, unknown_token=oov
        )
    filters, split = config.get("filters", KERAS_FILTERS), config.get("split", " ")
    num_words = config.get("num_words") if type(config.get("num_words")) is int else None
    if not isinstance(filters, str) or not isinstance(split, str):
        raise BadCheckpoint("the Tokenizer's filters and split are not strings")
    rules = keras_rules(filters, split, lower=is_lower)
    return replace(
        vocabulary, tokenizer="keras_words", rules=rules, unknown_token=oov, num_words=num_words
    )
