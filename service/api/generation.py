"""The generate routes: from a body to a request, and from chunks to a reply or a stream."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from service.api.bodies import DEFAULT_NEW_TOKENS, GenerateBody, Parameters
from service.api.event_stream import EventStream, EventWriter, rounded
from service.api.problems import problem_body
from service.api.serving import ServedModel, serving_of
from service.errors import CarouselError, Validation
from service.generation.engine import Stream
from service.generation.request import (
    Chunk,
    Finish,
    GenerationRequest,
    SamplingParams,
    Token,
)
from service.models.tokenizer import Tokenizer

router = APIRouter(tags=["generate"])


@dataclass(frozen=True, slots=True)
class Job:
    """One generation that has been admitted, with what its reply needs."""

    model: ServedModel
    request: GenerationRequest
    stream: Stream
    prefix: str  # what `generated_text` begins with
    has_details: bool
    began_s: float
    admitted_s: float


@router.post("/generate", response_class=Response)
async def generate(request: Request, body: GenerateBody) -> Response:
    """Generate text; with `stream` as server-sent events."""
    job = _admit(request, body)
    return _streamed(job) if body.stream else await _whole(request, job)


@router.post("/generate_stream", response_class=Response)
async def generate_stream(request: Request, body: GenerateBody) -> Response:
    """Generate text as server-sent events, one for each token."""
    return _streamed(_admit(request, body))


@router.post("/", response_class=Response, include_in_schema=False)
async def compatible_generate(request: Request, body: GenerateBody) -> Response:
    """As /generate, with a list around the reply, which is what older clients read."""
    job = _admit(request, body)
    return _streamed(job) if body.stream else await _whole(request, job, in_list=True)


def _admit(http: Request, body: GenerateBody) -> Job:
    """Check everything and begin; whatever is wrong is raised here, before the first byte."""
    if "x-session-id" in http.headers:
        raise Validation("the header X-Session-Id is not supported: there are no sessions yet")
    began_s = time.perf_counter()
    model = serving_of(http).get(body.model)
    parameters = body.parameters or _defaults(model.manifest.generation_defaults)
    request = _request(parameters, body.inputs, model.tokenizer)
    prefix = body.inputs if parameters.return_full_text else ""
    stream = model.runtime.engine.submit(request)
    has_details = bool(parameters.details)
    return Job(model, request, stream, prefix, has_details, began_s, time.perf_counter())


def _defaults(defaults: Mapping[str, Any]) -> Parameters:
    try:
        return Parameters.model_validate(defaults)
    except ValidationError as error:
        raise Validation(
            "the model's own generation_defaults are not valid parameters; give `parameters`"
        ) from error


def _request(parameters: Parameters, inputs: str, tokenizer: Tokenizer) -> GenerationRequest:
    prompt = tokenizer.encode(inputs)
    if parameters.truncate is not None:
        prompt = prompt[-parameters.truncate :]
    if not prompt:
        raise Validation("Input validation error: `inputs` has no character that the model knows")
    chosen = parameters.temperature if parameters.temperature is not None else 1.0
    sampling = SamplingParams(
        seed=secrets.randbits(64) if parameters.seed is None else parameters.seed,
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


# -- a stream


def _streamed(job: Job) -> Response:
    headers = {
        "x-compute-type": "cpu",
        "x-compute-characters": str(len(job.request.prompt)),
    }
    return EventStream(_pieces(job), headers, on_end=job.stream.cancel)


async def _pieces(job: Job) -> AsyncGenerator[bytes, None]:
    """The bytes of a stream, a piece each burst; an error on the way is its last event."""
    writer, index = job.model.runtime.writer, 1
    shown: list[int] = []
    try:
        async for chunk in job.stream:
            shown.extend(chunk.tokens)
            if chunk.finish is None:
                yield writer.events(index, chunk)
            else:
                yield _last_piece(writer, index, chunk, chunk.finish, job, shown)
            index += len(chunk.tokens)
    except CarouselError as error:
        yield b"data: " + problem_body(error) + b"\n\n"


def _last_piece(
    writer: EventWriter, index: int, chunk: Chunk, finish: Finish, job: Job, shown: Sequence[int]
) -> bytes:
    text = job.prefix + job.model.tokenizer.decode(shown)
    details = _details(finish, job) | {"input_length": len(job.request.prompt)}
    last, top, plain = finish.stop_token, chunk.top_tokens[-1:], chunk
    is_hidden = last is not None
    if last is None:
        last = Token(chunk.tokens[-1], chunk.logprobs[-1])
        plain = Chunk(chunk.tokens[:-1], chunk.logprobs[:-1], chunk.top_tokens[:-1])
    end = writer.last_event(
        index + len(plain.tokens),
        last,
        top[0] if top else (),
        text,
        details,
        is_hidden=is_hidden,
    )
    return writer.events(index, plain) + end


def _details(finish: Finish, job: Job) -> dict[str, Any]:
    return {
        "finish_reason": finish.reason,
        "generated_tokens": finish.generated_tokens,
        "seed": job.request.sampling.seed,
    }


# -- a whole reply


async def _whole(http: Request, job: Job, *, in_list: bool = False) -> Response:
    chunks: list[Chunk] = []
    first_s = job.admitted_s
    watch = asyncio.ensure_future(_cancel_when_gone(http, job.stream))
    try:
        async for chunk in job.stream:
            first_s = first_s if chunks else time.perf_counter()
            chunks.append(chunk)
    finally:
        watch.cancel()
        job.stream.cancel()
    tokens = [token for chunk in chunks for token in chunk.tokens]
    text = job.prefix + job.model.tokenizer.decode(tokens)
    reply: dict[str, Any] = {"generated_text": text}
    if job.has_details and chunks:
        reply["details"] = _whole_details(chunks, job)
    content = json.dumps([reply] if in_list else reply, ensure_ascii=True)
    headers = _times(job, first_s, len(tokens))
    return Response(content, headers=headers, media_type="application/json")


async def _cancel_when_gone(http: Request, stream: Stream) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
    stream.cancel()


def _whole_details(chunks: Sequence[Chunk], job: Job) -> dict[str, Any]:
    """The same tokens as a stream's events, that of a stop string's end included."""
    finish = chunks[-1].finish
    if finish is None:  # the client has gone
        return {}
    tokenizer = job.model.tokenizer
    tokens = [
        _token(tokenizer, Token(*one))
        for chunk in chunks
        for one in zip(chunk.tokens, chunk.logprobs, strict=True)
    ]
    if finish.stop_token is not None:
        tokens.append(_token(tokenizer, finish.stop_token) | {"text": "", "special": True})
    details = _details(finish, job) | {"prefill": [], "tokens": tokens}
    top = [likeliest for chunk in chunks for likeliest in chunk.top_tokens]
    if top:
        details["top_tokens"] = [[_token(tokenizer, token) for token in one] for one in top]
    return details


def _token(tokenizer: Tokenizer, token: Token) -> dict[str, Any]:
    text = tokenizer.text_of(token.id)
    return {"id": token.id, "text": text, "logprob": rounded(token.logprob), "special": False}


def _times(job: Job, first_s: float, generated: int) -> dict[str, str]:
    """TGI's timing headers, in milliseconds."""
    now_s = time.perf_counter()
    spans_s = {
        "total-time": now_s - job.began_s,
        "validation-time": job.admitted_s - job.began_s,
        "queue-time": first_s - job.admitted_s,
        "inference-time": now_s - first_s,
        "time-per-token": (now_s - first_s) / max(1, generated),
    }
    return {
        "x-compute-type": "cpu",
        "x-compute-time": f"{now_s - job.began_s:.6f}",
        "x-compute-characters": str(len(job.request.prompt)),
        "x-prompt-tokens": str(len(job.request.prompt)),
        "x-generated-tokens": str(generated),
    } | {f"x-{name}": str(round(1e3 * span_s)) for name, span_s in spans_s.items()}
