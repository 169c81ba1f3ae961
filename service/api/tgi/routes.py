"""The generate routes: from a body to a generation, in a session or without one."""

import time
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from service.api.admitted_request import AdmittedRequest
from service.api.grammar import of_grammar
from service.api.http_request import drawn_seeds, header, session_id_of
from service.api.sampling_fields import INPUT_ERROR, check_beam_search
from service.api.serving_engine import ServingEngine, steered_turn
from service.api.state import ServedModel, get_state, session_model
from service.api.tgi.responses import replayed, streamed, whole
from service.api.tgi.schemas import GENERATED, STREAMED, GenerateBody, Parameters
from service.errors import Validation
from service.generation.completions import start
from service.generation.request import GenerationRequest
from service.generation.token_texts import begins_text
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
    admitted = await _admit(http, body, is_stream=is_stream)
    if is_stream:
        return streamed(http, admitted)
    return await whole(http, admitted, in_list=in_list)


async def _admit(http: Request, body: GenerateBody, *, is_stream: bool) -> AdmittedRequest:
    """Check the whole request and start it: every error is raised before the first byte."""
    arrived_s = time.perf_counter()
    session_id = session_id_of(http, body.session_id)
    if session_id is not None:
        return await _admit_turn(http, body, session_id, arrived_s, is_stream=is_stream)
    if body.expected_position is not None:
        raise Validation("`expected_position` is of a session; give `session_id`")
    state = get_state(http)
    model = await state.get(http, body.model)
    parameters = _parameters(model, body)
    _check_combination(parameters, is_stream=is_stream, is_turn=False)
    prompt = model.tokenizer.encode_prompt(body.inputs)
    is_start = begins_text(model.tokenizer, prompt)
    owner, (seed,) = state.owner_of(http), drawn_seeds(http, state.seeds, 1)
    request = await _request(
        model,
        parameters,
        prompt,
        seed,
        is_start=is_start,
        owner=owner,
        is_whole=not is_stream,
    )
    if not request.prompt:
        raise Validation(f"{INPUT_ERROR}`inputs` {_no_prompt(body.inputs)}")
    n, width = parameters.best_of or 1, parameters.num_beams or 1
    tokens = len(request.prompt) + max(n, width) * request.max_new_tokens
    serving = await ServingEngine.of(http, model, parameters.steer, [request])
    meter = await state.metering.reserve(http, tokens)
    completions = start(
        serving.engine,
        serving.requests,
        n=n,
        beams=parameters.beam_params(width, 1) if parameters.is_beam_search else None,
        prompt_logprobs=0 if parameters.decoder_input_details else None,
        prefix_cache=serving.prefixes and serving.prefixes.scoped(owner),
    )
    meter.begin(len(request.prompt), completions=completions)
    return AdmittedRequest(
        model=model,
        requests=serving.requests,
        completions=completions,
        n=n,
        steer=serving.reply,
        arrived_s=arrived_s,
        echoed_prompt=body.inputs if parameters.return_full_text else "",
        typed_characters=len(body.inputs),
        has_details=bool(
            parameters.details or parameters.decoder_input_details or parameters.steer
        ),
    )


async def _admit_turn(
    http: Request, body: GenerateBody, session_id: str, arrived_s: float, *, is_stream: bool
) -> AdmittedRequest:
    """Start a turn of a session, or return the one that began with the same idempotency key."""
    state = get_state(http)

    async def admit(session: Session) -> AdmittedRequest:
        model = await state.get_for(http, session, body.model)
        parameters = _parameters(model, body)
        _check_combination(parameters, is_stream=is_stream, is_turn=True)
        served = session_model(model)
        prompt = await state.sessions.records.turn_prompt(session, served, body.inputs)
        request = await _request(
            model,
            parameters,
            prompt.tokens,
            session.seed,
            is_start=prompt.is_start,
            owner=session.key.owner,
        )
        request, steer = await steered_turn(
            http, model, parameters.steer, request, session.position
        )
        echoed_prompt = body.inputs if parameters.return_full_text else ""
        is_in_log = bool(echoed_prompt) and echoed_prompt == model.tokenizer.decode(request.prompt)
        has_details = bool(parameters.details or steer)
        reply: dict[str, Any] = {"details": True} if has_details else {}
        reply |= steer
        key = header(http, b"idempotency-key")
        turn_request = TurnRequest(
            request,
            OnDisconnect(body.on_disconnect),
            reply
            if is_in_log or not echoed_prompt
            else reply | {"prefix": echoed_prompt},  # truncated
            idempotency_key(key, "generate", lambda: body.fingerprint),
            body.expected_position,
            is_streamed=is_stream,
            shows_prompt=is_in_log,
            made_for=prompt.made_for,
        )
        meter = await state.metering.reserve(http, len(request.prompt) + request.max_new_tokens)
        begun = await state.sessions.turns.begin(session, served, turn_request)
        if not isinstance(begun, RunningTurn):
            return replayed(model, session.key, begun, arrived_s)
        meter.begin(len(request.prompt), begun)
        return AdmittedRequest.of_turn(
            model,
            session_id,
            request,
            begun,
            arrived_s=arrived_s,
            echoed_prompt=echoed_prompt,
            steer=steer,
            typed_characters=len(body.inputs),
            has_details=has_details,
        )

    return await state.sessions.records.with_session(state.key(http, session_id), admit)


def _parameters(model: ServedModel, body: GenerateBody) -> Parameters:
    """Return the body's parameters, or the model's `generation_defaults`. Raises Validation."""
    if body.parameters is not None:
        return body.parameters
    try:
        return Parameters.model_validate(model.manifest.generation_defaults)
    except ValidationError as error:
        raise Validation(
            "the model's own generation_defaults are not valid parameters; give `parameters`"
        ) from error


def _check_combination(parameters: Parameters, *, is_stream: bool, is_turn: bool) -> None:
    """Check whether parameters go together. Raises Validation, with TGI's message if it has one."""
    of_turn = _conflicts_with_turn(parameters) if is_turn else ()
    for message in chain(_conflicts(parameters, is_stream=is_stream), of_turn):
        raise Validation(INPUT_ERROR + message)


def _conflicts(parameters: Parameters, *, is_stream: bool) -> Iterator[str]:
    has_best_of, is_beam_search = (parameters.best_of or 1) > 1, parameters.is_beam_search
    if has_best_of and not parameters.is_sampling:
        yield "you must use sampling when `best_of` is > 1"
    if has_best_of and parameters.seed is not None:
        yield "`seed` must not be set when `best_of` > 1"
    if has_best_of and is_stream:
        yield "`best_of` != 1 is not supported when streaming tokens"
    if parameters.decoder_input_details and is_stream:
        yield "`decoder_input_details` == true is not supported when streaming tokens"
    if has_best_of and is_beam_search:
        yield "`best_of` and `num_beams` select among texts in two ways; give one of them"
    if parameters.length_penalty not in {None, 1.0} and not is_beam_search:
        yield "`length_penalty` has an effect only with `num_beams` > 1"
    if parameters.steer and is_beam_search:
        yield "`steer` does not go with `num_beams`: the beams of a search are not steered"
    if parameters.do_sample and is_beam_search:
        yield "`do_sample` does not go with `num_beams`: a beam search samples nothing"
    if (parameters.min_new_tokens or 0) > parameters.n_new_tokens:
        given = f"{parameters.min_new_tokens} and {parameters.n_new_tokens}"
        yield f"`min_new_tokens` must be at most `max_new_tokens`. Given: {given}"


def _conflicts_with_turn(parameters: Parameters) -> Iterator[str]:
    reason = "does not go with a session: a turn adds one text to it, once"
    if (parameters.best_of or 1) > 1:
        yield f"`best_of` {reason}"
    if parameters.is_beam_search:
        yield f"`num_beams` {reason}"
    if parameters.decoder_input_details:
        yield "`decoder_input_details` does not go with a session; POST /score does"


async def _request(
    model: ServedModel,
    parameters: Parameters,
    prompt: Sequence[int],
    default_seed: int,
    *,
    is_start: bool,
    owner: str,
    is_whole: bool = False,
) -> GenerationRequest:
    """Return the engine's request; `default_seed` applies if the parameters have no seed.

    Raises Validation where a parameter does not fit the model.
    """
    deadline_s, tokenizer, grammar = parameters.deadline_s(), model.tokenizer, parameters.grammar
    constraint = await parameters.compile_constraint(
        model.runtime.constraints,
        None if grammar is None else (of_grammar(grammar), "grammar"),
        parameters.min_new_tokens,
        (parameters.n_new_tokens, "max_new_tokens"),
    )
    sampling = parameters.sampling_params(
        len(tokenizer), default_seed, is_greedy=not parameters.is_sampling
    )
    if parameters.is_beam_search:
        check_beam_search(sampling, f"{INPUT_ERROR}`num_beams`")
    return GenerationRequest(
        prompt if parameters.truncate is None else prompt[-parameters.truncate :],
        parameters.n_new_tokens,
        sampling,
        tuple(parameters.stop or ()),
        min(parameters.top_n_tokens or 0, len(tokenizer)),
        constraint=constraint,
        min_new_tokens=parameters.min_new_tokens or 0,
        deadline_s=deadline_s,
        is_start=is_start,
        owner=owner,
        is_whole=is_whole,
    )


def _no_prompt(inputs: str) -> str:
    return "has no token that the model knows" if inputs else "cannot be empty"
