"""The generate routes: from a body to a request, in a session or without one."""

import secrets
import time
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from service.api.bodies import DEFAULT_NEW_TOKENS, GenerateBody, Parameters
from service.api.generated import GENERATED, STREAMED
from service.api.replies import Job, job_of_replay, streamed, whole
from service.api.serving import serving_of, voice_of
from service.errors import Validation
from service.generation.request import GenerationRequest, SamplingParams
from service.models.tokenizer import Tokenizer
from service.sessions.live import LiveTurn
from service.sessions.session import OnDisconnect, Session
from service.sessions.sessions import Ask, retry_of

router = APIRouter(tags=["generate"])


@router.post("/generate", response_class=Response, responses=GENERATED)
async def generate(request: Request, body: GenerateBody) -> Response:
    """Generate text; with `stream` as server-sent events."""
    job = await _admit(request, body, is_whole=not body.stream)
    return streamed(job) if body.stream else await whole(request, job)


@router.post("/generate_stream", response_class=Response, responses=STREAMED)
async def generate_stream(request: Request, body: GenerateBody) -> Response:
    """Generate text as server-sent events, one for each token."""
    return streamed(await _admit(request, body, is_whole=False))


@router.post("/", response_class=Response, include_in_schema=False)
async def compatible_generate(request: Request, body: GenerateBody) -> Response:
    """As /generate, with a list around the reply, which is what older clients read."""
    job = await _admit(request, body, is_whole=not body.stream)
    return streamed(job) if body.stream else await whole(request, job, in_list=True)


async def _admit(http: Request, body: GenerateBody, *, is_whole: bool) -> Job:
    """Check everything and begin; whatever is wrong is raised here, before the first byte."""
    began_s = time.perf_counter()
    session_id = _session_id(http, body)
    if session_id is not None:
        return await _admit_turn(http, body, session_id, began_s, is_whole=is_whole)
    if body.expected_position is not None:
        raise Validation("`expected_position` is of a session; give `session_id`")
    model = serving_of(http).get(body.model)
    parameters = body.parameters or _defaults(model.manifest.generation_defaults)
    request = _request(parameters, body.inputs, model.tokenizer, secrets.randbits(64))
    if not request.prompt:
        raise Validation(
            "Input validation error: `inputs` cannot be empty"
            if not body.inputs
            else "Input validation error: `inputs` has no character that the model knows"
        )
    return Job(
        model,
        request,
        model.runtime.engine.submit(request),
        prefix=body.inputs if parameters.return_full_text else "",
        has_details=bool(parameters.details),
        began_s=began_s,
    )


async def _admit_turn(
    http: Request, body: GenerateBody, session_id: str, began_s: float, *, is_whole: bool
) -> Job:
    """As `_admit`, in a session; the same idempotency key leads to the turn that it began."""
    serving = serving_of(http)

    async def admit(session: Session) -> Job:
        model = serving.get_for(session, body.model)
        parameters = body.parameters or _defaults(model.manifest.generation_defaults)
        request = _request(parameters, body.inputs, model.tokenizer, session.seed)
        prefix = body.inputs if parameters.return_full_text else ""
        is_in_log = bool(prefix) and prefix == model.tokenizer.decode(request.prompt)
        reply = {"details": True} if parameters.details else {}
        ask = Ask(
            request,
            OnDisconnect(body.on_disconnect),
            reply if is_in_log or not prefix else reply | {"prefix": prefix},  # truncated
            retry_of(_header(http, b"idempotency-key"), body),
            body.expected_position,
            is_whole=is_whole,
            shows_prompt=is_in_log,
        )
        turn = await serving.sessions.begin(session, voice_of(model), ask)
        if not isinstance(turn, LiveTurn):
            return job_of_replay(model, session.key, turn, began_s)
        return Job(
            model,
            request,
            turn.stream,
            prefix=prefix,
            has_details=bool(parameters.details),
            began_s=began_s,
            session_id=session_id,
            turn=turn.session.turn,
        )

    return await serving.sessions.using(serving.key(http, session_id), admit)


def _session_id(http: Request, body: GenerateBody) -> str | None:
    named = _header(http, b"x-session-id")
    if named is not None and body.session_id is not None and named != body.session_id:
        raise Validation("the header X-Session-Id and `session_id` name different sessions")
    return body.session_id if named is None else named


def _header(http: Request, name: bytes) -> str | None:
    value = dict(http.scope["headers"]).get(name)  # Starlette's own look takes five times as long
    return None if value is None else value.decode("latin-1")


def _defaults(defaults: Mapping[str, Any]) -> Parameters:
    try:
        return Parameters.model_validate(defaults)
    except ValidationError as error:
        raise Validation(
            "the model's own generation_defaults are not valid parameters; give `parameters`"
        ) from error


def _request(
    parameters: Parameters, inputs: str, tokenizer: Tokenizer, seed: int
) -> GenerationRequest:
    """The request that a body is; `seed` is taken where it has none."""
    prompt = tokenizer.encode(inputs)
    if parameters.truncate is not None:
        prompt = prompt[-parameters.truncate :]
    chosen = parameters.temperature if parameters.temperature is not None else 1.0
    sampling = SamplingParams(
        seed=seed if parameters.seed is None else parameters.seed,
        temperature=chosen if parameters.is_sampling else 0.0,
        top_k=parameters.top_k or 0,
        top_p=parameters.top_p or 1.0,
        min_p=parameters.min_p or 0.0,
        typical_p=parameters.typical_p or 1.0,
        repetition_penalty=parameters.repetition_penalty or 1.0,
        frequency_penalty=parameters.frequency_penalty or 0.0,
        presence_penalty=parameters.presence_penalty or 0.0,
        logit_bias=_logit_bias(parameters.logit_bias or {}, len(tokenizer)),
    )
    return GenerationRequest(
        prompt,
        parameters.max_new_tokens or DEFAULT_NEW_TOKENS,
        sampling,
        tuple(parameters.stop or ()),
        min(parameters.top_n_tokens or 0, len(tokenizer)),
    )


def _logit_bias(biases: Mapping[str, float], vocabulary: int) -> tuple[tuple[int, float], ...]:
    pairs = []
    for name, bias in biases.items():
        if not (name.isascii() and name.isdigit() and len(name) < 9 and int(name) < vocabulary):
            raise Validation(
                f"Input validation error: `logit_bias` names the token {name[:40]!r}; "
                f"the model's ids go from 0 to {vocabulary - 1}"
            )
        pairs.append((int(name), bias))
    return tuple(pairs)
