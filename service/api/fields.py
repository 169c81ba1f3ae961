"""Limits and field types that the request bodies of several routes share."""

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_NEW_TOKENS = 1_000_000
MAX_PROMPT_CHARACTERS = 1_000_000
MAX_STOPS = 4
MAX_CHOICES, MAX_BEAMS = 128, 10
MAX_TOKEN_IDS = 1_024
MAX_POSITION = 10**12
MAX_FIELDS = 64

Number = Annotated[float, Field(allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS)]
Name = Annotated[str, Field(max_length=80)]
Id = Annotated[str, Field(max_length=80)]
Position = Annotated[int, Field(ge=0, le=MAX_POSITION)]
TokenIds = Annotated[list[int], Field(min_length=1, max_length=MAX_TOKEN_IDS)]


class Body(BaseModel):
    """Base of every request body: a JSON object in which an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _limit_fields(cls, values: Any) -> Any:
        """Refuse too many fields at once: an error for each of a million would take seconds."""
        if isinstance(values, dict) and len(values) > MAX_FIELDS:
            raise ValueError(f"an object has at most {MAX_FIELDS} fields. Given: {len(values)}")
        return values

    @property
    def fingerprint(self) -> str:
        """The members that differ from their defaults, as JSON: the same in every release."""
        return json.dumps(self.model_dump(exclude_defaults=True), sort_keys=True)
