"""A reader of untrusted JSON: limited in size and depth, without duplicate keys and NaN."""

import json
import re
from typing import Any, Never

from service.errors import BadCheckpoint
from service.models.importing.checkpoint import JsonObject

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 64

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)


def read_json_object(content: bytes, what: str) -> JsonObject:
    """Return the JSON object in `content`; errors call it `what`. Raises BadCheckpoint."""
    if len(content) > MAX_BYTES:
        raise BadCheckpoint(f"{what} has {len(content)} bytes; the limit is {MAX_BYTES}")
    if (depth := _depth(content)) > MAX_DEPTH:
        raise BadCheckpoint(f"{what} is nested {depth} deep; the limit is {MAX_DEPTH}")
    try:
        value = json.loads(content, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except BadCheckpoint as error:
        raise BadCheckpoint(f"{what} {error}") from error
    except (ValueError, RecursionError) as error:
        raise BadCheckpoint(f"{what} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadCheckpoint(f"{what} is not a JSON object")
    return value


def _depth(content: bytes) -> int:
    depth = deepest = 0
    for byte in re.findall(rb"[\[\]{}]", _STRING.sub(b"", content)):
        depth += 1 if byte in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise BadCheckpoint(f"has the key {twice[:80]!r} twice in one object")
    return value


def _refuse_constant(name: str) -> Never:
    raise BadCheckpoint(f"has the number {name}, which is not JSON")
