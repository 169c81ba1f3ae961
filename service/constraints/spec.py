"""How a constraint was asked for: small enough to be kept in a record, whole enough to compile."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from service.errors import Validation

MAX_SOURCE_CHARACTERS = 65_536


class ConstraintKind(StrEnum):
    """What language a source is in."""

    REGEX = "regex"
    JSON_SCHEMA = "json_schema"
    CHOICE = "choice"
    ANY = "any"  # in none


@dataclass(frozen=True, slots=True)
class ConstraintSpec:
    """A regular expression, a JSON schema as JSON, or a JSON list of texts to choose from.

    What is left of its texts has none of the bad words in it, is made of allowed tokens, and has
    `least` of them or more. ANY has no `text`; its own texts go on until something else ends them.
    """

    kind: ConstraintKind
    text: str
    bad_words: tuple[str, ...] = ()
    allowed: tuple[int, ...] = ()  # token ids; without any, every token is
    least: int = 0

    def __post_init__(self) -> None:
        if len(self.text) > MAX_SOURCE_CHARACTERS:
            raise Validation(
                f"the {self.kind} has {len(self.text)} characters; "
                f"{MAX_SOURCE_CHARACTERS} is the limit"
            )

    @property
    def size_bytes(self) -> int:
        """What it holds in memory, about."""
        return 4 * len(self.text) + 4 * sum(map(len, self.bad_words)) + 8 * len(self.allowed)


def regex(pattern: str) -> ConstraintSpec:
    """Texts that a regular expression matches as a whole."""
    return ConstraintSpec(ConstraintKind.REGEX, pattern)


def json_schema(schema: Any) -> ConstraintSpec:
    """JSON texts whose value a schema describes; `schema` is a JSON value.

    Raises:
        Validation: it cannot be written as JSON, or is too long.

    """
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise Validation(f"the JSON schema is not JSON: {error}") from error
    return ConstraintSpec(ConstraintKind.JSON_SCHEMA, text)


def json_object() -> ConstraintSpec:
    """Any JSON object."""
    return json_schema({"type": "object"})


def choice(texts: Sequence[str]) -> ConstraintSpec:
    """One of some texts."""
    if not texts:
        raise Validation("the choice is among no texts; give one at least")
    return ConstraintSpec(ConstraintKind.CHOICE, json.dumps(list(texts), ensure_ascii=False))


def limited(
    source: ConstraintSpec | None,
    *,
    bad_words: Iterable[str] = (),
    allowed: Iterable[int] = (),
    least: int = 0,
) -> ConstraintSpec | None:
    """What is left of a source, or of any text where there is none; None: any text will do.

    Any text goes on anyway: a least length means something only of a source.
    """
    if source is None:
        source, least = ConstraintSpec(ConstraintKind.ANY, ""), 0
    words, ids = tuple(sorted({*bad_words})), tuple(sorted({*allowed}))
    found = replace(source, bad_words=words, allowed=ids, least=least)
    return None if found == ConstraintSpec(ConstraintKind.ANY, "") else found
