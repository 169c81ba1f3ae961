"""What a turn was asked to do, kept with its session until the next one.

With it any process can go on with the turn, or say again what it said.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

from service.generation.request import GenerationRequest, SamplingParams
from service.sessions.session import OnDisconnect

_PLAIN: dict[str, Any] = {"stop": (), "top_tokens": 0, "mode": OnDisconnect.CANCEL, "reply": {}}


@dataclass(frozen=True, slots=True)
class Order:
    """A turn's request without its prompt. `reply` is for whoever writes the answer."""

    max_new_tokens: int
    sampling: SamplingParams
    stop: tuple[str, ...]
    top_tokens: int
    mode: OnDisconnect
    reply: dict[str, Any]

    @classmethod
    def of(cls, request: GenerationRequest, mode: OnDisconnect, reply: dict[str, Any]) -> "Order":
        """The order that a request is."""
        return cls(
            request.max_new_tokens, request.sampling, request.stop, request.top_tokens, mode, reply
        )

    def request(self, prompt: tuple[int, ...]) -> GenerationRequest:
        """The request that an order and a prompt are."""
        return GenerationRequest(
            prompt, self.max_new_tokens, self.sampling, self.stop, self.top_tokens
        )

    def to_json(self) -> str:
        """As text, without what is as it is by default: every session keeps one."""
        fields = _without(asdict(self), _PLAIN)
        fields["sampling"] = _without(asdict(self.sampling), asdict(SamplingParams(0)))
        return json.dumps(fields, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Order":
        """Of `to_json`'s text."""
        fields = _PLAIN | json.loads(text)
        sampling = {"seed": 0} | fields.pop("sampling")
        bias = tuple((int(token), value) for token, value in sampling.pop("logit_bias", ()))
        return cls(
            sampling=SamplingParams(logit_bias=bias, **sampling),
            stop=tuple(fields.pop("stop")),
            mode=OnDisconnect(fields.pop("mode")),
            **fields,
        )


def _without(fields: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value != plain.get(name)}
