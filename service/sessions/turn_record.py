"""What a turn was asked to do, kept with its session until the next one.

With it any process can go on with the turn, or say again what it said. Whatever a request may ask
for is kept, but for what the log and the snapshots have. A constraint is kept as it was asked for,
and compiled again where it is needed.
"""

import json
from dataclasses import dataclass, fields, replace
from typing import Any

from service.constraints.constraint import Constraint
from service.constraints.spec import ConstraintKind, ConstraintSpec
from service.generation.request import GenerationRequest, SamplingParams
from service.sessions.session import OnDisconnect

# A request without what a turn goes on from, and without what is made of the constraint's source.
_BARE: dict[str, Any] = {
    "prompt": (),
    "initial_state": None,
    "penalty_context": (),
    "stop_context": "",
    "forced_tokens": (),
    "return_state": False,
    "constraint": None,
}
_ASKED = [
    (one.name, one.default)
    for one in fields(GenerationRequest)
    if one.name not in _BARE and one.name != "sampling"
]
_SAMPLING = [(one.name, getattr(SamplingParams(0), one.name)) for one in fields(SamplingParams)]
_SOURCE = [(one.name, one.default) for one in fields(ConstraintSpec)]
_ENCODER = json.JSONEncoder(separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """A turn's request without its prompt. `reply` is for whoever writes the answer."""

    asked: GenerationRequest  # bare
    mode: OnDisconnect
    reply: dict[str, Any]
    shows_prompt: bool = False
    constraint: ConstraintSpec | None = None

    @classmethod
    def of(
        cls,
        request: GenerationRequest,
        mode: OnDisconnect,
        reply: dict[str, Any],
        *,
        shows_prompt: bool = False,
    ) -> "TurnRecord":
        """The order that a request is."""
        constraint = request.constraint
        assert constraint is None or constraint.spec is not None
        source = constraint.spec if constraint else None
        return cls(replace(request, **_BARE), mode, reply, shows_prompt, source)

    def request(
        self, prompt: tuple[int, ...], constraint: Constraint | None = None
    ) -> GenerationRequest:
        """The request that an order and a prompt are; `constraint` is its own, compiled."""
        return replace(self.asked, prompt=prompt, constraint=constraint)

    def to_json(self) -> str:
        """As text, without what is as it is by default: every session keeps one."""
        order: dict[str, Any] = _unlike(self.asked, _ASKED)
        order["sampling"] = _unlike(self.asked.sampling, _SAMPLING)
        if self.mode is not OnDisconnect.CANCEL:
            order["mode"] = self.mode
        if self.reply:
            order["reply"] = self.reply
        if self.shows_prompt:
            order["shows_prompt"] = True
        if self.constraint is not None:
            order["constraint"] = _unlike(self.constraint, _SOURCE)
        return _ENCODER.encode(order)

    @classmethod
    def from_json(cls, text: str) -> "TurnRecord":
        """Of `to_json`'s text."""
        order = json.loads(text)
        source = order.pop("constraint", None)
        mode, reply = order.pop("mode", OnDisconnect.CANCEL), order.pop("reply", {})
        shows_prompt = order.pop("shows_prompt", False)
        sampling = SamplingParams(**_frozen({"seed": 0} | order.pop("sampling")))
        return cls(
            GenerationRequest(sampling=sampling, **_frozen(order), **_BARE),
            OnDisconnect(mode),
            reply,
            shows_prompt,
            source
            and ConstraintSpec(**(_frozen(source) | {"kind": ConstraintKind(source["kind"])})),
        )


def _unlike(value: object, plain: list[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of a value that are not as they are by default."""
    return {name: own for name, default in plain if (own := getattr(value, name)) != default}


def _frozen(fields_: dict[str, Any]) -> dict[str, Any]:
    """What JSON has made lists of, as it was."""
    return {name: _tuples(value) for name, value in fields_.items()}


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
