"""POST /v1/completions: from a body to choices, in a session or without one."""

import secrets
from collections.abc import Sequence

from fastapi import APIRouter, Request, Response

from service.api.errors import mark_unkeyed_turn
from service.api.headers import header, session_id_of
from service.api.limits import constraint_within, deadline_of
from service.api.openai.bodies import CompletionBody
from service.api.openai.completion import Completion
from service.api.openai.params import (
    beams_of,
    check_together,
    max_tokens_of,
    prompt_logprobs_of,
    request_of,
    source_of,
)
from service.api.openai.prompts import tokens_of
from service.api.openai.responses import whole
from service.api.openai.schemas import COMPLETED
from service.api.openai.stream import streamed
from service.api.state import AppState, ServedModel, get_state, session_model
from service.constraints.constraint import Constraint
from service.errors import Validation, about
from service.generation.completions import CompletionStream, SingleCompletion, start
from service.generation.engine import QUEUE_LIMIT
from service.generation.prefix_cache import ScopedPrefixCache
from service.generation.request import GenerationRequest
from service.sessions.idempotency import idempotency_key
from service.sessions.running_turn import RunningTurn
from service.sessions.session import OnDisconnect, Session
from service.sessions.turns import TurnRequest

router = APIRouter(prefix="/v1", tags=["openai"])

MAX_TEXTS = QUEUE_LIMIT
"""Texts of one request: as many as the engine's line takes."""


@router.post("/completions", response_class=Response, responses=COMPLETED)
async def create(http: Request, body: CompletionBody) -> Response:
    """Complete one prompt or several; with `stream` as server-sent events."""
    serving, session_id = get_state(http), session_id_of(http, body.session_id)
    check_together(body, is_turn=session_id is not None)
    if session_id is None:
        completion = await _admit(serving, http, body)
    else:
        completion = await _admit_turn(serving, http, body, session_id)
    return streamed(completion) if body.stream else await whole(http, completion)


async def _admit(serving: AppState, http: Request, body: CompletionBody) -> Completion:
    """Check everything and begin; whatever is wrong is raised here, before the first byte."""
    with about("model"):
        model = serving.get(body.model)
    deadline_s = deadline_of(body.max_time)  # one for all of them
    constraint = await _constraint(model, body)
    requests = [
        _request(model, body, prompt, secrets.randbits(64), constraint, deadline_s)
        for prompt in body.prompt
    ]
    for request in requests:
        if not request.prompt:
            raise Validation("`prompt` has no character that the model knows", "prompt")
    salt = () if body.cache_salt is None else (body.cache_salt,)
    prefixes = model.runtime.prefixes.scoped(serving.owner_of(http), *salt)
    return Completion(_id(body), model, body, requests, _begin(model, body, requests, prefixes))


async def _admit_turn(
    serving: AppState, http: Request, body: CompletionBody, session_id: str
) -> Completion:
    """As `_admit`, in a session; the same idempotency key leads to the turn that it began."""
    key = header(http, b"idempotency-key")
    if key is None and body.expected_position is None:
        mark_unkeyed_turn(http)

    async def admit(session: Session) -> Completion:
        model = serving.get_for(session, body.model)
        deadline_s = deadline_of(body.max_time)
        constraint = await _constraint(model, body)
        (prompt,) = body.prompt
        request = _request(model, body, prompt, session.seed, constraint, deadline_s)
        ask = TurnRequest(
            request,
            OnDisconnect(body.on_disconnect),
            {},
            idempotency_key(key, body),
            body.expected_position,
            is_whole=not body.stream,
        )
        begun = await serving.sessions.turns.begin(session, session_model(model), ask)
        turn = begun.session.turn if isinstance(begun, RunningTurn) else begun.turn
        chunks = begun.stream if isinstance(begun, RunningTurn) else begun
        choices = SingleCompletion(chunks, chunks.cancel)
        return Completion(
            _id(body), model, body, [request], choices, session_id=session_id, turn=turn
        )

    return await serving.sessions.records.with_session(serving.key(http, session_id), admit)


async def _constraint(model: ServedModel, body: CompletionBody) -> Constraint | None:
    constraint = await constraint_within(
        model.runtime.constraints,
        source_of(body),
        bad_words=body.bad_words,
        allowed=body.allowed_token_ids,
        least=body.min_tokens,
    )
    if constraint is not None:
        with about("max_tokens"):
            constraint.check_fits(max_tokens_of(body))
    return constraint


def _request(
    model: ServedModel,
    body: CompletionBody,
    prompt: str | list[int],
    seed: int,
    constraint: Constraint | None,
    deadline_s: float | None,
) -> GenerationRequest:
    with about("prompt"):
        tokens = tokens_of(prompt, model.tokenizer)
    return request_of(body, tokens, model.tokenizer, seed, constraint, deadline_s)


def _begin(
    model: ServedModel,
    body: CompletionBody,
    requests: Sequence[GenerationRequest],
    prefixes: ScopedPrefixCache,
) -> CompletionStream:
    """Every prompt's choices; all of them or none."""
    n = body.n or 1
    n_texts = len(requests) * (body.best_of or n)
    if n_texts > MAX_TEXTS:
        raise Validation(
            f"the request asks for {n_texts} texts of all its prompts; {MAX_TEXTS} is the limit",
            "n",
        )
    return start(
        model.runtime.engine,
        requests,
        n=n,
        best_of=body.best_of or n,
        beams=beams_of(body),
        prompt_logprobs=prompt_logprobs_of(body),
        prefix_cache=prefixes,
    )


def _id(body: CompletionBody) -> str:
    return f"cmpl-{body.request_id or secrets.token_hex(12)}"
