"""The score routes: the logprob of each token of a text, and their sums."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from service.api.errors import error_event
from service.api.fields import Body, Id, Name, Text
from service.api.http_request import (
    BINARY,
    TEXT,
    cancelled_on_disconnect,
    check_media_type,
    raw_body,
)
from service.api.serving_engine import acquire_steered, before_last
from service.api.sse import Responses, SSEResponse, events_of
from service.api.state import ServedModel, get_state, session_model
from service.api.steer_fields import (
    SteeredReply,
    SteerEntry,
    steer_reply,
    steering_in_session,
    steering_of,
)
from service.api.text_body import most_tokens, no_token, texts_of
from service.errors import CarouselError, Validation
from service.generation.request import Chunk
from service.generation.score import Score, Scorer
from service.models.steering import MAX_STEERED_CELLS
from service.models.step import State
from service.sessions.session import Session

router = APIRouter(tags=["score"])


class ScoreBody(Body):
    """The body of POST /score."""

    inputs: Annotated[Text, Field(min_length=1)]
    model: Name | None = None
    session_id: Id | None = None
    steer: Annotated[list[SteerEntry], Field(max_length=MAX_STEERED_CELLS)] | None = None
    details: bool = True
    stream: bool = False


class ScoredToken(BaseModel):
    """A token of the text; `logprob` is null for the first one without a session."""

    id: int
    text: str
    logprob: float | None


class SumsReply(BaseModel):
    """Sums over the tokens that have a logprob; `perplexity` is that of a character."""

    characters: int
    token_count: int
    nats: float
    nats_per_token: float | None
    bits_per_character: float | None
    bits_per_byte: float | None
    perplexity: float | None


class ScoreReply(SumsReply):
    """The sums and, unless `details` is false, every token."""

    tokens: list[ScoredToken] | None = None
    steer: SteeredReply | None = None


class ScoreEvent(ScoreReply):
    """An event of a stream: the new tokens, and the sums so far."""

    done: bool  # true in the last one


_SCORE: Responses = {
    200: {
        "model": ScoreReply,
        "content": events_of("a burst's tokens, or the end.", "ScoreEvent", "Problem"),
        "description": "The score; with `stream`, events.",
    }
}
_SUMS: Responses = {200: {"model": SumsReply}}


@router.post("/score", response_class=Response, responses=_SCORE)
async def score(request: Request, body: ScoreBody) -> Response:
    """Score a text; in a session as its continuation, and the session is not changed."""
    limits, n_characters = get_state(request).limits, len(body.inputs)
    if body.details and not body.stream and n_characters > limits.max_score_details_characters:
        raise Validation(
            f"`inputs` has {n_characters} characters, and a reply has the tokens of at most "
            f"{limits.max_score_details_characters}: set `stream`, or set `details` to false"
        )
    model, scorer, steered = await _admit(request, body.model, body.session_id, body.steer)
    try:
        n_tokens = len(await asyncio.to_thread(model.tokenizer.encode, body.inputs))
        if not n_tokens:
            raise no_token("`inputs`")
        meter = await get_state(request).metering.reserve(request, n_tokens)
    except BaseException:
        scorer.cancel()
        raise
    meter.begin(n_tokens)
    texts = model.runtime.encoder.texts if body.details else None
    if body.stream:
        events = _events(scorer, body.inputs, texts, steered)
        return SSEResponse(events, {}, scorer.cancel, limits.ping_interval_s)
    with cancelled_on_disconnect(request, scorer.cancel):
        pieces = [_tokens(chunk, texts) async for chunk in scorer.read(body.inputs) if texts]
    tokens = f'"tokens":[{",".join(pieces)}],' if texts else ""
    return Response(f"{{{tokens}{_sums(scorer.score)}{steered}}}", media_type="application/json")


@router.post("/score/text", response_class=Response, responses=_SUMS, openapi_extra=raw_body(TEXT))
async def score_text(
    request: Request,
    model: Annotated[str | None, Query(max_length=80)] = None,
    session_id: Annotated[str | None, Query(max_length=80)] = None,
) -> Response:
    """Score a text of any length as it arrives; the body is the text in UTF-8. Returns sums."""
    check_media_type(request, TEXT, BINARY, expected=f"the text is the body itself, as {TEXT}")
    _, scorer, _ = await _admit(request, model, session_id)
    try:
        meter = await get_state(request).metering.reserve(request, most_tokens(request))
    except BaseException:
        scorer.cancel()
        raise
    n_chunks = 0
    try:
        async for text, is_last in texts_of(request):
            async for _ in scorer.read(text, is_last=is_last):
                n_chunks += 1
    finally:
        meter.begin(scorer.score.token_count)
        scorer.cancel()
    if not n_chunks:
        raise no_token("the text")
    return Response(f"{{{_sums(scorer.score)}}}", media_type="application/json")


async def _admit(
    request: Request,
    name: str | None,
    session_id: str | None,
    steer: Sequence[SteerEntry] | None = None,
) -> tuple[ServedModel, Scorer, str]:
    """Return the model, a scorer that begins at the session's state, or at the zero state.

    The last value is what the reply says of its steering, as a member of a JSON object.
    """
    state = get_state(request)
    if session_id is None:
        model = await state.get(request, name)
        owner = state.owner_of(request)
        if not steer:
            return model, _scorer(model, owner), ""
        steering = steering_of(steer, model.spec, 0, 0)
        steered = await acquire_steered(request, model, len(steer))
        pending = model.tokenizer.special.before_text
        scorer = Scorer(steered.engine, model.tokenizer, None, pending, owner=owner, steer=steering)
        reply = steer_reply(steer, has_same_kernel=steered.has_same_bytes)
        return model, scorer, f',"steer":{json.dumps(reply)}'
    key = state.key(request, session_id)

    async def begin(session: Session) -> tuple[ServedModel, Scorer, str]:
        model = await state.get_for(request, session, name)
        origin, ready = await state.sessions.records.latest_state(key, session_model(model))
        if steer:
            return await _steered_in_session(request, model, key.owner, (origin, ready), steer)
        return model, _scorer(model, key.owner, origin, ready), ""

    return await state.sessions.records.with_session(key, begin)


async def _steered_in_session(
    request: Request,
    model: ServedModel,
    owner: str,
    latest: tuple[State | None, Sequence[int]],
    steer: Sequence[SteerEntry],
) -> tuple[ServedModel, Scorer, str]:
    """Return as `_admit`; the log but its last token is read plainly, by the model's own engine.

    So the result does not depend on where the session's latest snapshot is.
    """
    origin, ready = latest
    position = (0 if origin is None else origin.position) + len(ready)
    steering = steering_in_session(steer, model.spec, position, 0)
    origin, ready = await before_last(model, owner, origin, ready)
    pending = ready or (model.tokenizer.special.before_text if origin is None else ())
    steered = await acquire_steered(request, model, len(steer))
    scorer = Scorer(steered.engine, model.tokenizer, origin, pending, owner=owner, steer=steering)
    reply = steer_reply(steer, has_same_kernel=steered.has_same_bytes)
    return model, scorer, f',"steer":{json.dumps(reply)}'


def _scorer(
    model: ServedModel,
    owner: str,
    initial: State | None = None,
    pending: Sequence[int] = (),
) -> Scorer:
    """Return the scorer of a text after a state, or at the beginning of all text."""
    if initial is None:
        pending = pending or model.tokenizer.special.before_text
    return Scorer(model.runtime.engine, model.tokenizer, initial, pending, owner=owner)


async def _events(
    scorer: Scorer, text: str, texts: Sequence[str] | None, steered: str
) -> AsyncGenerator[bytes, None]:
    """Yield an event for each burst and one for the end; an error is the last event."""
    try:
        async for chunk in scorer.read(text):
            tokens = f'"tokens":[{_tokens(chunk, texts)}],' if texts else ""
            yield f'data: {{{tokens}{_sums(scorer.score)},"done":false}}\n\n'.encode("ascii")
        tokens = '"tokens":[],' if texts else ""
        yield f'data: {{{tokens}{_sums(scorer.score)}{steered},"done":true}}\n\n'.encode("ascii")
    except CarouselError as error:
        yield error_event(error)


def _sums(score: Score) -> str:
    """Encode the sums as members of a JSON object."""
    sums = {
        "characters": score.characters,
        "token_count": score.token_count,
        "nats": score.nats,
        "nats_per_token": score.nats_per_token,
        "bits_per_character": score.bits_per_character,
        "bits_per_byte": score.bits_per_byte,
        "perplexity": score.perplexity,
    }
    return json.dumps(sums, separators=(",", ":"))[1:-1]


def _tokens(chunk: Chunk, texts: Sequence[str]) -> str:
    """Encode the tokens of a chunk, separated by commas; `texts` are JSON, by token id."""
    return ",".join(
        f'{{"id":{token},"text":{texts[token]},'
        f'"logprob":{f"{logprob:.7f}" if logprob <= 0.0 else "null"}}}'
        for token, logprob in zip(chunk.tokens, chunk.logprobs, strict=True)
    )
