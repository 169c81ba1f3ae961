"""The routes under /v1: completions, in a session or without one, and models."""

import secrets
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request, Response

from service.api.errors import mark_unkeyed_turn
from service.api.generation import AdmittedGeneration, completions_of_turn
from service.api.http_request import header, session_id_of
from service.api.openai.params import (
    beams_of,
    check_combination,
    constraint_of,
    prompt_logprobs_of,
    request_of,
    tokens_of,
)
from service.api.openai.responses import streamed, whole
from service.api.openai.schemas import (
    COMPLETED,
    CompletionBody,
    ModelReply,
    ModelsReply,
    ModelWithVocabularyReply,
)
from service.api.state import AppState, ServedModel, get_state, session_model
from service.errors import Validation, about
from service.generation.completions import start
from service.generation.request import GenerationRequest
from service.models.registry import DEFAULT_ALIAS
from service.sessions.idempotency import idempotency_key
from service.sessions.session import OnDisconnect, Session
from service.sessions.turns import TurnRequest

router = APIRouter(prefix="/v1", tags=["openai"])


@router.post("/completions", response_class=Response, responses=COMPLETED)
async def create(http: Request, body: CompletionBody) -> Response:
    """Complete one prompt or several; with `stream` as server-sent events."""
    session_id = session_id_of(http, body.session_id)
    check_combination(body, is_turn=session_id is not None)
    if session_id is None:
        generation = await _admit(http, body)
    else:
        generation = await _admit_turn(http, body, session_id)
    if body.stream:
        return streamed(http, generation, body)
    return await whole(http, generation, body)


async def _admit(http: Request, body: CompletionBody) -> AdmittedGeneration:
    """Check the whole request and start it: every error is raised before the first byte."""
    state = get_state(http)
    with about("model"):
        model = state.get(body.model)
    requests = await _requests(model, body, [secrets.randbits(64) for _ in body.prompt])
    if not all(request.prompt for request in requests):
        raise Validation("`prompt` has no character that the model knows", "prompt")
    n, n_sampled = body.n or 1, len(requests) * (body.best_of or body.n or 1)
    limit = model.runtime.engine.config.queue_limit
    if n_sampled > limit:  # more would never be admitted
        raise Validation(
            f"the request needs {n_sampled} texts for all its prompts; the limit is {limit}",
            "n",
        )
    salt = () if body.cache_salt is None else (body.cache_salt,)
    completions = start(
        model.runtime.engine,
        requests,
        n=n,
        best_of=body.best_of or n,
        beams=beams_of(body),
        prompt_logprobs=prompt_logprobs_of(body),
        prefix_cache=model.runtime.prefixes.scoped(state.owner_of(http), *salt),
    )
    return AdmittedGeneration(model=model, requests=requests, completions=completions, n=n)


async def _admit_turn(http: Request, body: CompletionBody, session_id: str) -> AdmittedGeneration:
    """Start a turn of a session, or return the one that began with the same idempotency key."""
    state, key = get_state(http), header(http, b"idempotency-key")
    if key is None and body.expected_position is None:
        mark_unkeyed_turn(http)

    async def admit(session: Session) -> AdmittedGeneration:
        model = state.get_for(session, body.model)
        requests = await _requests(model, body, [session.seed])
        turn_request = TurnRequest(
            requests[0],
            OnDisconnect(body.on_disconnect),
            {},
            idempotency_key(key, body),
            body.expected_position,
            is_whole=not body.stream,
        )
        begun = await state.sessions.turns.begin(session, session_model(model), turn_request)
        turn, completions = completions_of_turn(begun)
        return AdmittedGeneration(
            model=model,
            requests=requests,
            completions=completions,
            session_id=session_id,
            turn=turn,
        )

    return await state.sessions.records.with_session(state.key(http, session_id), admit)


async def _requests(
    model: ServedModel, body: CompletionBody, default_seeds: Sequence[int]
) -> list[GenerationRequest]:
    """Return the request of each prompt. Raises UnknownCharacter, Validation."""
    deadline_s = body.deadline_s()  # one for all prompts
    constraint = await constraint_of(body, model.runtime.constraints)
    requests = []
    for prompt, seed in zip(body.prompt, default_seeds, strict=True):
        with about("prompt"):
            tokens = tokens_of(prompt, model.tokenizer)
        requests.append(request_of(body, tokens, model.tokenizer, seed, constraint, deadline_s))
    return requests


# -- models


@router.get("/models")
async def every(request: Request) -> ModelsReply:
    """List the loaded models and their aliases."""
    state = get_state(request)
    return ModelsReply(
        data=[ModelReply(**_model_row(name, model)) for name, model in _models_by_name(state)],
    )


@router.get("/models/{name}")
async def one(request: Request, name: str) -> ModelWithVocabularyReply:
    """Return a model with its vocabulary."""
    with about("model"):
        model = get_state(request).get(name)
    vocabulary = list(model.tokenizer.tokens)
    return ModelWithVocabularyReply(**_model_row(name, model), vocabulary=vocabulary)


def _models_by_name(state: AppState) -> Iterator[tuple[str, ServedModel]]:
    aliases = state.registry.aliases
    loaded = {model.ref: model for model in state.registry.loaded()}
    default = aliases.get(DEFAULT_ALIAS)
    for ref in sorted(loaded, key=lambda ref: (ref != default, ref)):
        yield str(ref), loaded[ref]
    for alias, ref in sorted(aliases.items()):
        if ref in loaded:
            yield alias, loaded[ref]


def _model_row(name: str, model: ServedModel) -> dict[str, Any]:
    manifest = model.manifest
    return {
        "id": name,
        "created": int(datetime.fromisoformat(manifest.created_at).timestamp()),
        "root": str(model.ref),
        "digest": manifest.digest,
        "vocabulary_size": len(model.tokenizer),
    }
