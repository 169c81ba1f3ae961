"""The generate routes: from a body to a generation, in a session or without one."""

import secrets
import time

from fastapi import APIRouter, Request, Response

from service.api.generation import AdmittedGeneration, completions_of_turn
from service.api.http_request import header, session_id_of
from service.api.sampling_fields import INPUT_ERROR
from service.api.state import ServedModel, get_state, session_model
from service.api.tgi.params import (
    beams_of,
    check_combination,
    constraint_of,
    default_parameters,
    request_of,
)
from service.api.tgi.responses import replayed, streamed, whole
from service.api.tgi.schemas import GENERATED, STREAMED, GenerateBody, Parameters
from service.errors import Validation
from service.generation.completions import start
from service.generation.request import GenerationRequest
from service.sessions.idempotency import idempotency_key
from service.sessions.running_turn import RunningTurn
from service.sessions.session import OnDisconnect, Session
from service.sessions.turns import TurnRequest

router = APIRouter(tags=["generate"])


@router.post("/generate", response_class=Response, responses=GENERATED)
async def generate(request: Request, body: GenerateBody) -> Response:
    """Generate text; with `stream` as server-sent events."""
    return await _reply(request, body, is_stream=body.stream)


@router.post("/generate_stream", response_class=Response, responses=STREAMED)
async def generate_stream(request: Request, body: GenerateBody) -> Response:
    """Generate text as server-sent events, one for each token."""
    return await _reply(request, body, is_stream=True)


@router.post("/", response_class=Response, include_in_schema=False)
async def compatible_generate(request: Request, body: GenerateBody) -> Response:
    """Generate text as `/generate`; the reply is in a list, which older clients expect."""
    return await _reply(request, body, is_stream=body.stream, in_list=True)


async def _reply(
    http: Request, body: GenerateBody, *, is_stream: bool, in_list: bool = False
) -> Response:
    generation = await _admit(http, body, is_stream=is_stream)
    if is_stream:
        return streamed(http, generation)
    return await whole(http, generation, in_list=in_list)


async def _admit(http: Request, body: GenerateBody, *, is_stream: bool) -> AdmittedGeneration:
    """Check the whole request and start it: every error is raised before the first byte."""
    arrived_s = time.perf_counter()
    session_id = session_id_of(http, body.session_id)
    if session_id is not None:
        return await _admit_turn(http, body, session_id, arrived_s, is_stream=is_stream)
    if body.expected_position is not None:
        raise Validation("`expected_position` is of a session; give `session_id`")
    state = get_state(http)
    model = state.get(body.model)
    parameters = body.parameters or default_parameters(model.manifest.generation_defaults)
    check_combination(parameters, is_stream=is_stream, is_turn=False)
    request = await _request(model, parameters, body.inputs, secrets.randbits(64))
    if not request.prompt:
        reason = "has no character that the model knows" if body.inputs else "cannot be empty"
        raise Validation(f"{INPUT_ERROR}`inputs` {reason}")
    n = parameters.best_of or 1
    completions = start(
        model.runtime.engine,
        [request],
        n=n,
        beams=beams_of(parameters),
        prompt_logprobs=0 if parameters.decoder_input_details else None,
        prefix_cache=model.runtime.prefixes.scoped(state.owner_of(http)),
    )
    return AdmittedGeneration(
        model=model,
        requests=[request],
        completions=completions,
        n=n,
        arrived_s=arrived_s,
        prefix=body.inputs if parameters.return_full_text else "",
        has_details=bool(parameters.details or parameters.decoder_input_details),
    )


async def _admit_turn(
    http: Request, body: GenerateBody, session_id: str, arrived_s: float, *, is_stream: bool
) -> AdmittedGeneration:
    """Start a turn of a session, or return the one that began with the same idempotency key."""
    state = get_state(http)

    async def admit(session: Session) -> AdmittedGeneration:
        model = state.get_for(session, body.model)
        parameters = body.parameters or default_parameters(model.manifest.generation_defaults)
        check_combination(parameters, is_stream=is_stream, is_turn=True)
        request = await _request(model, parameters, body.inputs, session.seed)
        prefix = body.inputs if parameters.return_full_text else ""
        is_in_log = bool(prefix) and prefix == model.tokenizer.decode(request.prompt)
        reply = {"details": True} if parameters.details else {}
        turn_request = TurnRequest(
            request,
            OnDisconnect(body.on_disconnect),
            reply if is_in_log or not prefix else reply | {"prefix": prefix},  # truncated
            idempotency_key(header(http, b"idempotency-key"), body),
            body.expected_position,
            is_whole=not is_stream,
            shows_prompt=is_in_log,
        )
        begun = await state.sessions.turns.begin(session, session_model(model), turn_request)
        if not isinstance(begun, RunningTurn):
            return replayed(model, session.key, begun, arrived_s)
        turn, completions = completions_of_turn(begun)
        return AdmittedGeneration(
            model=model,
            requests=[request],
            completions=completions,
            session_id=session_id,
            turn=turn,
            arrived_s=arrived_s,
            prefix=prefix,
            has_details=bool(parameters.details),
        )

    return await state.sessions.records.with_session(state.key(http, session_id), admit)


async def _request(
    model: ServedModel, parameters: Parameters, inputs: str, default_seed: int
) -> GenerationRequest:
    deadline_s = parameters.deadline_s()
    prompt = model.tokenizer.encode(inputs)
    constraint = await constraint_of(parameters, model.runtime.constraints)
    return request_of(parameters, prompt, model.tokenizer, default_seed, constraint, deadline_s)
