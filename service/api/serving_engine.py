"""The engine that serves a request: the model's own, or its steered one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastapi import Request

from service.api.request_stats import STEERED
from service.api.state import ServedModel
from service.api.steer_fields import SteerEntry, steer_reply, steering_in_session, steering_of
from service.generation.engine import Engine
from service.generation.prefix_cache import ScopedPrefixCache
from service.generation.request import GenerationRequest, scoring_request
from service.generation.steered_engine import SteeredModel
from service.models.steering import is_active
from service.models.step import State


@dataclass(frozen=True, slots=True)
class ServingEngine:
    """The engine of a request, which may be a steered one."""

    engine: Engine
    prefixes: ScopedPrefixCache | None  # None: states of this prompt are not shared
    requests: Sequence[GenerationRequest]
    reply: dict[str, Any]  # members that the reply has because of it

    @classmethod
    async def of(
        cls,
        http: Request,
        model: ServedModel,
        entries: Sequence[SteerEntry] | None,
        requests: Sequence[GenerationRequest],
    ) -> "ServingEngine":
        """Return the engine for requests that begin their texts.

        Raises Validation where the model has no such cell, and as `SteeredEngine.acquire`.
        """
        runtime = model.runtime
        if not entries:
            return cls(runtime.engine, runtime.prefixes, requests, {})
        steers = [
            steering_of(entries, model.spec, 0, max(0, len(one.prompt) - 1)) for one in requests
        ]
        steered = await acquire_steered(http, model, len(entries))
        planned = [replace(one, steer=steer) for one, steer in zip(requests, steers, strict=True)]
        is_shared = not any(is_active(one.steer, 0, len(one.prompt) - 1) for one in planned)
        prefixes = steered.prefixes if is_shared else None
        reply = steer_reply(entries, has_same_kernel=steered.has_same_bytes)
        return cls(steered.engine, prefixes, planned, {"steer": reply})


async def steered_turn(
    http: Request,
    model: ServedModel,
    entries: Sequence[SteerEntry] | None,
    request: GenerationRequest,
    position: int,
) -> tuple[GenerationRequest, dict[str, Any]]:
    """Return the request of a session's turn as it is steered, and what its reply has of this.

    Raises as `ServingEngine.of`, and Validation for tokens that the session has read.
    """
    if not entries:
        return request, {}
    steer = steering_in_session(entries, model.spec, position, len(request.prompt))
    steered = await acquire_steered(http, model, len(entries))
    reply = steer_reply(entries, has_same_kernel=steered.has_same_bytes)
    return replace(request, steer=steer), {"steer": reply}


async def before_last(
    model: ServedModel, owner: str, origin: State | None, ready: Sequence[int]
) -> tuple[State | None, Sequence[int]]:
    """Read all but the last of a session's tokens that a state has not read, not steered."""
    if len(ready) > 1:
        plain = scoring_request(ready, (), origin, owner=owner)
        async for chunk in model.runtime.engine.submit(plain):
            origin = chunk.state
    return origin, ready[-1:]


async def acquire_steered(http: Request, model: ServedModel, n_cells: int) -> SteeredModel:
    """Return a model's steered engine, and note the steering for the request's log record.

    Raises as `SteeredEngine.acquire`.
    """
    http.scope["state"][STEERED] = n_cells
    return await model.runtime.steered.acquire()
