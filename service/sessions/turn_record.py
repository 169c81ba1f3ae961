"""The record of a turn: its request, stored with the session until the next turn.

From it any process can take over or replay the turn. It has every field of the request except those
that the log and the snapshots hold. A constraint is stored as its specification, and compiled again
where it is needed.
"""

import json
from dataclasses import dataclass, fields, replace
from typing import Any

from service.constraints.constraint import Constraint
from service.constraints.spec import ConstraintKind, ConstraintSpec
from service.generation.request import GenerationRequest, SamplingParams
from service.models.steering import packed, unpacked
from service.sessions.session import OnDisconnect

# The fields that the log and the snapshots hold, and the compiled constraint, as they are left out.
_OMITTED: dict[str, Any] = {
    "prompt": (),
    "initial_state": None,
    "sampled_in_prompt": 0,
    "penalty_context": (),
    "stop_context": (),
    "forced_tokens": (),
    "return_state": False,
    "constraint": None,
    "owner": "",  # that of the session
}
_REQUEST_FIELDS = [
    (one.name, one.default)
    for one in fields(GenerationRequest)
    if one.name not in _OMITTED and one.name != "sampling" and one.compare  # all but its timing
]
_SAMPLING_FIELDS = [
    (one.name, getattr(SamplingParams(0), one.name)) for one in fields(SamplingParams)
]
_CONSTRAINT_FIELDS = [(one.name, one.default) for one in fields(ConstraintSpec)]
_ENCODER = json.JSONEncoder(separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """A turn's request without its prompt. `reply` holds options of the response."""

    bare: GenerationRequest  # without the omitted fields
    on_disconnect: OnDisconnect
    reply: dict[str, Any]
    shows_prompt: bool = False
    constraint: ConstraintSpec | None = None

    @classmethod
    def of(
        cls,
        request: GenerationRequest,
        on_disconnect: OnDisconnect,
        reply: dict[str, Any],
        *,
        shows_prompt: bool = False,
    ) -> "TurnRecord":
        """Make the record of a request."""
        source = _spec_of(request)
        return cls(replace(request, **_OMITTED), on_disconnect, reply, shows_prompt, source)

    @classmethod
    def json_of(
        cls,
        request: GenerationRequest,
        on_disconnect: OnDisconnect,
        reply: dict[str, Any],
        *,
        shows_prompt: bool = False,
    ) -> str:
        """Return the text of the record that `of` makes, without a copy of the request."""
        return cls(request, on_disconnect, reply, shows_prompt, _spec_of(request)).to_json()

    def request(
        self, prompt: tuple[int, ...], constraint: Constraint | None = None
    ) -> GenerationRequest:
        """Return the request with its prompt and its compiled constraint."""
        return replace(self.bare, prompt=prompt, constraint=constraint)

    def to_json(self) -> str:
        """Encode it without default values, because every session stores one."""
        record: dict[str, Any] = _non_defaults(self.bare, _REQUEST_FIELDS)
        if self.bare.steer:
            record["steer"] = packed(self.bare.steer)
        record["sampling"] = _non_defaults(self.bare.sampling, _SAMPLING_FIELDS)
        if self.on_disconnect is not OnDisconnect.CANCEL:
            record["mode"] = self.on_disconnect
        if self.reply:
            record["reply"] = self.reply
        if self.shows_prompt:
            record["shows_prompt"] = True
        if self.constraint is not None:
            record["constraint"] = _non_defaults(self.constraint, _CONSTRAINT_FIELDS)
        return _ENCODER.encode(record)

    @classmethod
    def from_json(cls, text: str) -> "TurnRecord":
        """Decode the text of `to_json`."""
        record = json.loads(text)
        steer = unpacked(record.pop("steer", []))
        source = record.pop("constraint", None)
        on_disconnect = OnDisconnect(record.pop("mode", OnDisconnect.CANCEL))
        reply = record.pop("reply", {})
        shows_prompt = record.pop("shows_prompt", False)
        sampling = SamplingParams(**_tuples_in({"seed": 0} | record.pop("sampling")))
        return cls(
            GenerationRequest(sampling=sampling, steer=steer, **_tuples_in(record), **_OMITTED),
            on_disconnect,
            reply,
            shows_prompt,
            source
            and ConstraintSpec(**(_tuples_in(source) | {"kind": ConstraintKind(source["kind"])})),
        )


def _spec_of(request: GenerationRequest) -> ConstraintSpec | None:
    constraint = request.constraint
    assert constraint is None or constraint.spec is not None
    return constraint.spec if constraint else None


def _non_defaults(value: object, defaults: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the fields of a value that differ from their defaults."""
    return {name: own for name, default in defaults if (own := getattr(value, name)) != default}


def _tuples_in(fields_: dict[str, Any]) -> dict[str, Any]:
    """Turn the lists that JSON has made of tuples back into tuples."""
    return {name: _tuples(value) for name, value in fields_.items()}


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
