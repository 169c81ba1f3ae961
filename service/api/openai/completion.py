"""One request to /v1/completions that has been admitted, with what its reply needs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from service.api.openai.bodies import CompletionBody
from service.api.openai.growing import ChoiceState
from service.api.sse import EventIds
from service.api.state import ServedModel
from service.generation.completions import CompletionStream
from service.generation.request import Finish, GenerationRequest
from service.sessions.session import Turn


@dataclass(frozen=True, slots=True)
class Completion:
    """Its choices, some for each prompt's request, and the turn where it is one."""

    id: str
    model: ServedModel
    body: CompletionBody
    requests: Sequence[GenerationRequest]
    choices: CompletionStream
    session_id: str | None = None
    turn: Turn | None = None
    created_s: int = field(default_factory=lambda: int(time.time()))

    @property
    def head(self) -> dict[str, Any]:
        """What every object of the reply begins with."""
        manifest = self.model.manifest
        fingerprint = f"fp_{manifest.digest.rpartition(':')[2][:12]}_{self.model.precision}"
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created_s,
            "model": str(self.model.ref),
            "system_fingerprint": fingerprint,
        }

    @property
    def _n(self) -> int:
        """Choices of each prompt."""
        return self.body.n or 1

    @property
    def has_logprobs(self) -> bool:
        """Whether choices come with `logprobs`."""
        return self.body.logprobs is not None

    def growing(self) -> list[ChoiceState]:
        """Every choice, before it has grown."""
        return [ChoiceState(request.stop) for request in self.requests for _ in range(self._n)]

    def prompt(self, index: int) -> Sequence[int]:
        """The prompt of a choice."""
        return self.requests[index // self._n].prompt

    @property
    def prompt_tokens(self) -> int:
        """How many tokens all prompts have."""
        if self.turn is not None:
            return self.turn.first - self.turn.start
        return sum(len(request.prompt) for request in self.requests)

    @property
    def ids(self) -> EventIds | None:
        """How the events are called, in a session."""
        turn = self.turn
        return EventIds(f"{turn.epoch}.{turn.number}.", turn.first) if turn else None

    def usage(self, generated: int) -> dict[str, Any]:
        """What the request took, where choices that are told have so many tokens."""
        usage = self.choices.usage
        generated += usage.discarded_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": generated,
            "total_tokens": self.prompt_tokens + generated,
            "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        }

    def session(self, finish: Finish | None) -> dict[str, Any]:
        """`session`, where there is one and its turn has ended."""
        if self.turn is None or finish is None:
            return {}
        position = self.turn.first + finish.generated_tokens
        return {"session": {"id": self.session_id, "position": position, "turn": self.turn.number}}
