"""How a constraint was asked for: small enough to be kept in a record, whole enough to compile."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from service.errors import Validation

MAX_SOURCE_CHARACTERS = 65_536


class Kind(StrEnum):
    """What language a source is in."""

    REGEX = "regex"
    JSON_SCHEMA = "json_schema"
    CHOICE = "choice"


@dataclass(frozen=True, slots=True)
class Source:
    """A regular expression, a JSON schema as JSON, or a JSON list of texts to choose from."""

    kind: Kind
    text: str

    def __post_init__(self) -> None:
        if len(self.text) > MAX_SOURCE_CHARACTERS:
            raise Validation(
                f"the {self.kind} has {len(self.text)} characters; "
                f"{MAX_SOURCE_CHARACTERS} is the limit"
            )


def regex(pattern: str) -> Source:
    """Texts that a regular expression matches as a whole."""
    return Source(Kind.REGEX, pattern)


def json_schema(schema: Any) -> Source:
    """JSON texts whose value a schema describes; `schema` is a JSON value.

    Raises:
        Validation: it cannot be written as JSON, or is too long.

    """
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise Validation(f"the JSON schema is not JSON: {error}") from error
    return Source(Kind.JSON_SCHEMA, text)


def json_object() -> Source:
    """Any JSON object."""
    return json_schema({"type": "object"})


def choice(texts: Sequence[str]) -> Source:
    """One of some texts."""
    if not texts:
        raise Validation("the choice is among no texts; give one at least")
    return Source(Kind.CHOICE, json.dumps(list(texts), ensure_ascii=False))
