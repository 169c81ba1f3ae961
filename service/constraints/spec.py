"""Constraint specs: what a request asks for, small enough to be stored with a turn."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from service.errors import Validation

MAX_SOURCE_CHARACTERS = 65_536


class ConstraintKind(StrEnum):
    """The language of a spec's text."""

    REGEX = "regex"
    JSON_SCHEMA = "json_schema"
    CHOICE = "choice"
    ANY = "any"  # no text: only banned words and allowed tokens


@dataclass(frozen=True, slots=True)
class ConstraintSpec:
    """A regular expression, a JSON schema as JSON, or a JSON list of choices, and restrictions.

    A text that matches contains no bad word, consists of allowed tokens, and has `least` of them
    or more. ANY has no `text`: it restricts texts of any form, which end by other limits.
    """

    kind: ConstraintKind
    text: str
    bad_words: tuple[str, ...] = ()
    allowed: tuple[int, ...] = ()  # token ids; empty: all tokens
    least: int = 0

    def __post_init__(self) -> None:
        if len(self.text) > MAX_SOURCE_CHARACTERS:
            raise Validation(
                f"the {self.kind} has {len(self.text)} characters; "
                f"{MAX_SOURCE_CHARACTERS} is the limit"
            )

    @property
    def size_bytes(self) -> int:
        """The approximate size in memory."""
        return 4 * len(self.text) + 4 * sum(map(len, self.bad_words)) + 8 * len(self.allowed)


def regex(pattern: str) -> ConstraintSpec:
    """Return the spec of the texts that a regular expression matches as a whole."""
    return ConstraintSpec(ConstraintKind.REGEX, pattern)


def json_schema(schema: Any) -> ConstraintSpec:
    """Return the spec of the instances of a JSON schema. Raises Validation."""
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise Validation(f"the JSON schema is not JSON: {error}") from error
    return ConstraintSpec(ConstraintKind.JSON_SCHEMA, text)


def json_object() -> ConstraintSpec:
    """Return the spec of any JSON object."""
    return json_schema({"type": "object"})


def choice(texts: Sequence[str]) -> ConstraintSpec:
    """Return the spec of one of some texts. Raises Validation if there are none."""
    if not texts:
        raise Validation("the choice is among no texts; give one at least")
    return ConstraintSpec(ConstraintKind.CHOICE, json.dumps(list(texts), ensure_ascii=False))


def limited(
    spec: ConstraintSpec | None,
    *,
    bad_words: Iterable[str] = (),
    allowed: Iterable[int] = (),
    least: int = 0,
) -> ConstraintSpec | None:
    """Add restrictions to a spec, or to ANY if it is None; return None if there are none.

    ANY has no least length, since its texts end by other limits only.
    """
    if spec is None:
        spec, least = ConstraintSpec(ConstraintKind.ANY, ""), 0
    words, ids = tuple(sorted({*bad_words})), tuple(sorted({*allowed}))
    found = replace(spec, bad_words=words, allowed=ids, least=least)
    return None if found == ConstraintSpec(ConstraintKind.ANY, "") else found
