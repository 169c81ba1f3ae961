"""Checks of a tokenizer.json: what it may hold so that reading and encoding are bounded."""

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any

from service.errors import BadCheckpoint

MAX_FILE_BYTES = 32 * 1024 * 1024
_MAX_COMPONENTS, _MAX_DEPTH, _MAX_TEXT, _MAX_WORD = 16, 4, 64, 1000
_MAX_GROWTH = 64.0  # by how much all components together may lengthen a text

_MODELS = ("BPE", "WordPiece", "Unigram", "WordLevel")
_COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "normalizer": (
        *("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Strip", "Nmt", "Precompiled"),
        *("BertNormalizer", "Prepend", "Replace", "ByteLevel"),
    ),
    "pre_tokenizer": (
        *("ByteLevel", "BertPreTokenizer", "Whitespace", "WhitespaceSplit", "Digits", "Metaspace"),
        *("Punctuation", "CharDelimiterSplit", "Split", "UnicodeScripts"),
    ),
    "decoder": (
        *("ByteLevel", "WordPiece", "Metaspace", "Replace", "ByteFallback", "Fuse", "Strip"),
    ),
}
_MEMBERS = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "decoder": "decoders",
    "post_processor": "processors",
}

# A backtracking pattern can take exponential time, so only those of published tokenizers are run.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _CL100K.replace(r"\p{N}{1,3}", r"\p{N}")
_CLIP = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
KNOWN_PATTERNS = frozenset(
    {_GPT2, _CL100K, _QWEN2, _CLIP, " {2,}", r"\s+", r"\d", r"\p{N}", "[0-9]"}
)


def checked_json(content: bytes) -> dict[str, Any]:
    """Return the object of a tokenizer.json that is safe to load. Raises BadCheckpoint."""
    if len(content) > MAX_FILE_BYTES:
        raise BadCheckpoint(
            f"tokenizer.json has {len(content)} bytes; at most {MAX_FILE_BYTES} are read"
        )
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadCheckpoint(f"tokenizer.json is not JSON: {error}"[:300]) from error
    if not isinstance(value, dict) or not isinstance(value.get("model"), dict):
        raise BadCheckpoint("tokenizer.json has no object 'model'; save it by Tokenizer.save")
    value["model"] = _checked_model(value["model"])
    growth = 1.0
    for part in _COMPONENTS:
        for component in components(value, part):
            _check_component(part, component)
            growth *= _growth(component)
    if growth > _MAX_GROWTH:
        raise BadCheckpoint(
            f"tokenizer.json may lengthen a text {growth:.0f} times; at most {_MAX_GROWTH:.0f} "
            "times is served"
        )
    return value


def components(value: Mapping[str, Any], part: str) -> list[dict[str, Any]]:
    """Return the components of one kind of a file, in order.

    Raises BadCheckpoint if there are too many.
    """
    found = []
    for component in _flat(value.get(part), part, 0):
        found.append(component)
        if len(found) > _MAX_COMPONENTS:
            raise BadCheckpoint(f"tokenizer.json has more than {_MAX_COMPONENTS} of '{part}'")
    return found


def template(value: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Return the ids that a file's post-processor puts before and after a text.

    Raises BadCheckpoint if it does something else.
    """
    before: list[int] = []
    after: list[int] = []
    for processor in components(value, "post_processor"):
        kind = processor.get("type")
        try:
            if kind in ("BertProcessing", "RobertaProcessing"):
                before.append(int(processor["cls"][1]))
                after.append(int(processor["sep"][1]))
            elif kind == "TemplateProcessing":
                side = before
                for piece in processor["single"]:
                    if "Sequence" in piece:
                        side = after
                    else:
                        name = piece["SpecialToken"]["id"]
                        side.extend(map(int, processor["special_tokens"][name]["ids"]))
            elif kind != "ByteLevel":  # which changes offsets alone
                raise BadCheckpoint(
                    f"the post_processor of tokenizer.json is {str(kind)[:40]!r}; served are "
                    "BertProcessing, RobertaProcessing, TemplateProcessing and ByteLevel"
                )
        except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
            raise BadCheckpoint(
                f"the post_processor of tokenizer.json cannot be read: {error}"[:300]
            ) from error
    return before, after


def _flat(value: Any, part: str, depth: int) -> Iterator[dict[str, Any]]:
    if value is None:
        return
    if not isinstance(value, dict) or depth > _MAX_DEPTH:
        raise BadCheckpoint(f"the '{part}' of tokenizer.json is not an object, or nested too deep")
    if value.get("type") != "Sequence":
        yield value
        return
    members = value.get(_MEMBERS[part])
    if not isinstance(members, list):
        raise BadCheckpoint(f"a Sequence in the '{part}' of tokenizer.json has no list of members")
    for member in members:
        yield from _flat(member, part, depth + 1)


def _checked_model(model: dict[str, Any]) -> dict[str, Any]:
    kind = model.get("type")
    if kind is None:  # files of before 2021
        kind = "BPE" if "merges" in model else "Unigram" if "unk_id" in model else "WordPiece"
    if kind not in _MODELS:
        raise BadCheckpoint(
            f"the model of tokenizer.json is {str(kind)[:40]!r}; served are {', '.join(_MODELS)}"
        )
    if model.get("dropout"):
        raise BadCheckpoint(
            "the model of tokenizer.json has a dropout, which encodes a text each time in another "
            "way; save it with dropout null"
        )
    limit = model.get("max_input_chars_per_word", 100)
    if type(limit) is not int or limit > _MAX_WORD:
        raise BadCheckpoint(
            f"max_input_chars_per_word of tokenizer.json is {str(limit)[:40]}; at most {_MAX_WORD} "
            "is served, since the time of a word grows with its square"
        )
    return {**model, "type": kind}


def _check_component(part: str, component: Mapping[str, Any]) -> None:
    kind = str(component.get("type"))
    if kind not in _COMPONENTS[part]:
        raise BadCheckpoint(
            f"the {part} of tokenizer.json is {kind[:40]!r}; served are "
            f"{', '.join(_COMPONENTS[part])}"
        )
    pattern = component.get("pattern")
    if isinstance(pattern, dict) and "Regex" in pattern:
        if str(pattern["Regex"]) not in KNOWN_PATTERNS:
            raise BadCheckpoint(
                f"the {part} {kind} of tokenizer.json has the regular expression "
                f"{str(pattern['Regex'])[:80]!r}, which may take unlimited time; only those of "
                "GPT-2 and its successors are served"
            )
    elif kind in {"Replace", "Split"}:
        text = pattern.get("String") if isinstance(pattern, dict) else None
        if not isinstance(text, str) or not 1 <= len(text) <= _MAX_TEXT:
            raise BadCheckpoint(
                f"the {part} {kind} of tokenizer.json has a pattern that is not a text of 1 to "
                f"{_MAX_TEXT} characters"
            )
    for key in ("content", "prepend"):
        if len(str(component.get(key, ""))) > _MAX_TEXT:
            raise BadCheckpoint(
                f"'{key}' of the {part} {kind} of tokenizer.json is longer than {_MAX_TEXT} "
                "characters"
            )
    if kind == "Precompiled":
        _check_charsmap(component.get("precompiled_charsmap"))


def _check_charsmap(value: Any) -> None:
    """Check that no entry of SentencePiece's normalization replaces by a long text."""
    try:
        content = base64.b64decode(value, validate=True)
    except (TypeError, ValueError) as error:
        raise BadCheckpoint("the precompiled_charsmap of tokenizer.json is not base64") from error
    start = 4 + int.from_bytes(content[:4], "little")  # the size of a trie, and the trie
    if start > len(content):
        raise BadCheckpoint("the precompiled_charsmap of tokenizer.json is cut off")
    if max(map(len, content[start:].split(b"\0"))) > _MAX_TEXT:
        raise BadCheckpoint(
            "the precompiled_charsmap of tokenizer.json replaces a character by more than "
            f"{_MAX_TEXT} bytes"
        )


def _growth(component: Mapping[str, Any]) -> float:
    """Return by how much a component may lengthen a text when it is applied again and again."""
    if component["type"] == "ByteLevel":
        return 4.0  # bytes of a character
    if component["type"] == "Replace":
        pattern = component["pattern"].get("String", " ")
        return max(1.0, len(str(component.get("content", ""))) / len(pattern))
    return 1.0
