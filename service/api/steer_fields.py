"""Steering in requests and replies: the field `steer`, and what it means for a text."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from service.api.fields import Body, Number, Position
from service.errors import Validation
from service.models.spec import ModelSpec
from service.models.steering import (
    ENDLESS,
    MAX_STEERED_CELLS,
    MAX_STEERED_VALUE,
    SteeredCell,
    Steering,
    SteerOp,
    check_steering,
    state_of,
)


class SteerEntry(Body):
    """A cell that is held or changed while the model reads a part of the text."""

    layer: int = Field(0, ge=0, description="Among the recurrent layers, counted from 0.")
    cell: int = Field(ge=0, description="Counted from 0.")
    op: Literal["set", "add", "scale", "freeze"] = Field(
        description="What is done to the new value; `freeze` keeps the value before."
    )
    value: Number | None = Field(
        None,
        ge=-MAX_STEERED_VALUE,
        le=MAX_STEERED_VALUE,
        description="Of each operation but `freeze`.",
    )
    gate: str | None = Field(
        None, max_length=20, description="A gate after its activation, instead of the state."
    )
    from_: Literal["generated", "prompt"] | Position = Field(
        "generated",
        alias="from",
        description="The first token that is read so: the one before the first draw, the first of "
        "the prompt, or a position in the text.",
    )
    until: Position | None = Field(
        None, description="The position of the first token that is read without it."
    )


class SteeredReply(BaseModel):
    """What was steered, as it was asked for; `kernel` is the one that computed the text."""

    cells: list[dict[str, Any]]
    kernel: Literal["same", "onnxruntime"]  # or else unsteered text is rounded in another order


_ENTRIES = TypeAdapter(Annotated[list[SteerEntry], Field(max_length=MAX_STEERED_CELLS)])


def entries_of(text: str) -> list[SteerEntry]:
    """Read the entries of a query's `steer`, a list in JSON. Raises Validation."""
    try:
        return _ENTRIES.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, ("steer", *first["loc"])))
        raise Validation(
            f"`{place}` is not as it should be: {first['msg']}; `steer` is a JSON list such as "
            '[{"cell": 445, "op": "set", "value": -0.7}]',
            "steer",
        ) from error


def steering_of(
    entries: Sequence[SteerEntry], spec: ModelSpec, prompt_start: int, first_draw: int
) -> Steering:
    """Return what the entries mean for a text. Raises Validation, by the name of the field.

    The prompt begins at the position `prompt_start`; the first draw is from the logits of the step
    that reads the token at `first_draw`.
    """
    places = {"prompt": prompt_start, "generated": first_draw}
    steering = tuple(
        SteeredCell(
            one.layer,
            one.cell,
            one.gate or state_of(spec, one.layer),
            SteerOp(one.op),
            _value_of(one),
            places[one.from_] if isinstance(one.from_, str) else one.from_,
            ENDLESS if one.until is None else one.until,
        )
        for one in entries
    )
    check_steering(steering, spec)
    return steering


def steering_in_session(
    entries: Sequence[SteerEntry], spec: ModelSpec, position: int, n_prompt: int
) -> Steering:
    """Return what the entries mean after a session's text, for a prompt of so many tokens.

    Raises Validation, also for tokens that the session has read.
    """
    first = max(0, position - 1)
    steering = steering_of(entries, spec, position, max(0, position + n_prompt - 1))
    early = min((one.start for one in steering), default=first)
    if early < first:
        raise Validation(
            f"`steer` begins at token {early}, which the session has read: it is at position "
            f"{position}; the first token that can be steered is {first}",
            "steer",
        )
    return steering


def _value_of(entry: SteerEntry) -> float:
    is_freeze = entry.op == "freeze"
    if is_freeze and entry.value is not None:
        raise Validation("`freeze` keeps the value before and takes no `value`", "steer")
    if not is_freeze and entry.value is None:
        raise Validation(f"`{entry.op}` of `steer` needs a `value`", "steer")
    return entry.value or 0.0


def steer_reply(entries: Sequence[SteerEntry], *, has_same_kernel: bool) -> dict[str, Any]:
    """Return what a reply says of its steering (SteeredReply)."""
    kernel = "same" if has_same_kernel else "onnxruntime"
    return {"cells": [_shown(one) for one in entries], "kernel": kernel}


def _shown(entry: SteerEntry) -> dict[str, Any]:
    shown: dict[str, Any] = {"layer": entry.layer, "cell": entry.cell}
    if entry.gate is not None:
        shown["gate"] = entry.gate
    shown["op"] = entry.op
    if entry.value is not None:
        shown["value"] = entry.value
    return shown | {"from": entry.from_, "until": entry.until}
