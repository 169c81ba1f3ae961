"""Properties of a text in a request: a name, or one of the request's own."""

from typing import Annotated

from pydantic import Field

from service.api.fields import MAX_PROMPT_CHARACTERS, Body, Name, Number
from service.errors import Validation
from service.inspection.labels import (
    Label,
    given_label,
    matched_label,
    named_label,
    spanned_label,
)

MAX_SPANS, MAX_PATTERN = 100_000, 1_000


class PropertyFields(Body):
    """A property of the request's own: exactly one of `match`, `spans` and `values`."""

    name: Name
    match: Annotated[str, Field(min_length=1, max_length=MAX_PATTERN)] | None = None
    spans: Annotated[list[list[int]], Field(min_length=1, max_length=MAX_SPANS)] | None = None
    values: Annotated[list[Number], Field(max_length=MAX_PROMPT_CHARACTERS)] | None = None


PropertyField = Name | PropertyFields


def label_of(field: PropertyField, text: str) -> Label:
    """Return the values of a property over a text. Raises Validation."""
    if isinstance(field, str):
        return named_label(field, text)
    given = [one for one in (field.match, field.spans, field.values) if one is not None]
    if len(given) != 1:
        raise Validation(
            f"the property {field.name!r} has {len(given)} of `match`, `spans` and `values`: "
            "give one"
        )
    if field.match is not None:
        return matched_label(field.name, field.match, text)
    if field.spans is not None:
        return spanned_label(field.name, field.spans, text)
    return given_label(field.name, field.values or [], text)
