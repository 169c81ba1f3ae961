"""What a turn was asked to do, kept with its session until the next one.

With it any process can go on with the turn, or say again what it said. A constraint is kept as it
was asked for, and compiled again where it is needed.
"""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from service.constraints.constraint import Constraint
from service.constraints.source import Kind, Source
from service.generation.request import GenerationRequest, SamplingParams
from service.sessions.session import OnDisconnect

_PLAIN: dict[str, Any] = {
    "stop": (),
    "top_tokens": 0,
    "mode": OnDisconnect.CANCEL,
    "reply": {},
    "shows_prompt": False,
}
_PLAIN_SAMPLING = [
    (one.name, getattr(SamplingParams(0), one.name)) for one in fields(SamplingParams)
]
_ENCODER = json.JSONEncoder(separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Order:
    """A turn's request without its prompt. `reply` is for whoever writes the answer."""

    max_new_tokens: int
    sampling: SamplingParams
    stop: tuple[str, ...]
    top_tokens: int
    mode: OnDisconnect
    reply: dict[str, Any]
    shows_prompt: bool = False
    constraint: Source | None = None

    @classmethod
    def of(
        cls,
        request: GenerationRequest,
        mode: OnDisconnect,
        reply: dict[str, Any],
        *,
        shows_prompt: bool = False,
    ) -> "Order":
        """The order that a request is."""
        constraint = request.constraint
        assert constraint is None or constraint.source is not None
        return cls(
            max_new_tokens=request.max_new_tokens,
            sampling=request.sampling,
            stop=request.stop,
            top_tokens=request.top_tokens,
            mode=mode,
            reply=reply,
            shows_prompt=shows_prompt,
            constraint=constraint.source if constraint else None,
        )

    def request(
        self, prompt: tuple[int, ...], constraint: Constraint | None = None
    ) -> GenerationRequest:
        """The request that an order and a prompt are; `constraint` is its own, compiled."""
        return GenerationRequest(
            prompt,
            self.max_new_tokens,
            self.sampling,
            self.stop,
            self.top_tokens,
            constraint=constraint,
        )

    def to_json(self) -> str:
        """As text, without what is as it is by default: every session keeps one."""
        sampling = {
            name: value
            for name, plain in _PLAIN_SAMPLING
            if (value := getattr(self.sampling, name)) != plain
        }
        order = {"max_new_tokens": self.max_new_tokens, "sampling": sampling}
        order |= {
            name: value for name, plain in _PLAIN.items() if (value := getattr(self, name)) != plain
        }
        if self.constraint is not None:
            order["constraint"] = asdict(self.constraint)
        return _ENCODER.encode(order)

    @classmethod
    def from_json(cls, text: str) -> "Order":
        """Of `to_json`'s text."""
        order = _PLAIN | json.loads(text)
        sampling = {"seed": 0} | order.pop("sampling")
        bias = tuple((int(token), value) for token, value in sampling.pop("logit_bias", ()))
        source = order.pop("constraint", None)
        return cls(
            constraint=source and Source(Kind(source["kind"]), source["text"]),
            sampling=SamplingParams(logit_bias=bias, **sampling),
            stop=tuple(order.pop("stop")),
            mode=OnDisconnect(order.pop("mode")),
            **order,
        )
