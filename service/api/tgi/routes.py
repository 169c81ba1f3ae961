"""The generate routes: from a body to a request, in a session or without one."""

import secrets
import time

from fastapi import APIRouter, Request, Response

from service.api.bodies import GenerateBody, Parameters
from service.api.headers import header, session_id_of
from service.api.limits import deadline_of
from service.api.state import ServedModel, get_state, session_model
from service.api.tgi.params import (
    INPUT,
    beams_of,
    check_together,
    constraint_of,
    defaults_of,
    request_of,
)
from service.api.tgi.responses import AdmittedGeneration, job_of_replay, streamed, whole
from service.api.tgi.schemas import GENERATED, STREAMED
from service.errors import Validation
from service.generation.completions import SingleCompletion, start
from service.generation.request import GenerationRequest
from service.sessions.idempotency import idempotency_key
from service.sessions.running_turn import RunningTurn
from service.sessions.session import OnDisconnect, Session
from service.sessions.turns import TurnRequest

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


async def _admit(http: Request, body: GenerateBody, *, is_whole: bool) -> AdmittedGeneration:
    """Check everything and begin; whatever is wrong is raised here, before the first byte."""
    began_s = time.perf_counter()
    session_id = session_id_of(http, body.session_id)
    if session_id is not None:
        return await _admit_turn(http, body, session_id, began_s, is_whole=is_whole)
    if body.expected_position is not None:
        raise Validation("`expected_position` is of a session; give `session_id`")
    serving = get_state(http)
    model = serving.get(body.model)
    parameters = body.parameters or defaults_of(model.manifest.generation_defaults)
    check_together(parameters, is_stream=not is_whole, is_turn=False)
    deadline_s = deadline_of(parameters.max_time)
    request = await _request(model, parameters, body.inputs, secrets.randbits(64), deadline_s)
    if not request.prompt:
        why = "has no character that the model knows" if body.inputs else "cannot be empty"
        raise Validation(f"{INPUT}`inputs` {why}")
    return AdmittedGeneration(
        model,
        request,
        start(
            model.runtime.engine,
            [request],
            n=parameters.best_of or 1,
            beams=beams_of(parameters),
            prompt_logprobs=0 if parameters.decoder_input_details else None,
            prefix_cache=model.runtime.prefixes.scoped(serving.owner_of(http)),
        ),
        prefix=body.inputs if parameters.return_full_text else "",
        has_details=bool(parameters.details or parameters.decoder_input_details),
        began_s=began_s,
    )


async def _admit_turn(
    http: Request, body: GenerateBody, session_id: str, began_s: float, *, is_whole: bool
) -> AdmittedGeneration:
    """As `_admit`, in a session; the same idempotency key leads to the turn that it began."""
    serving = get_state(http)

    async def admit(session: Session) -> AdmittedGeneration:
        model = serving.get_for(session, body.model)
        parameters = body.parameters or defaults_of(model.manifest.generation_defaults)
        check_together(parameters, is_stream=not is_whole, is_turn=True)
        deadline_s = deadline_of(parameters.max_time)
        request = await _request(model, parameters, body.inputs, session.seed, deadline_s)
        prefix = body.inputs if parameters.return_full_text else ""
        is_in_log = bool(prefix) and prefix == model.tokenizer.decode(request.prompt)
        reply = {"details": True} if parameters.details else {}
        ask = TurnRequest(
            request,
            OnDisconnect(body.on_disconnect),
            reply if is_in_log or not prefix else reply | {"prefix": prefix},  # truncated
            idempotency_key(header(http, b"idempotency-key"), body),
            body.expected_position,
            is_whole=is_whole,
            shows_prompt=is_in_log,
        )
        turn = await serving.sessions.turns.begin(session, session_model(model), ask)
        if not isinstance(turn, RunningTurn):
            return job_of_replay(model, session.key, turn, began_s)
        return AdmittedGeneration(
            model,
            request,
            SingleCompletion(turn.stream, turn.stream.cancel),
            prefix=prefix,
            has_details=bool(parameters.details),
            began_s=began_s,
            session_id=session_id,
            turn=turn.session.turn,
        )

    return await serving.sessions.records.with_session(serving.key(http, session_id), admit)


async def _request(
    model: ServedModel,
    parameters: Parameters,
    inputs: str,
    seed: int,
    deadline_s: float | None,
) -> GenerationRequest:
    prompt = model.tokenizer.encode(inputs)
    constraint = await constraint_of(parameters, model.runtime.constraints)
    return request_of(parameters, prompt, model.tokenizer, seed, constraint, deadline_s)
