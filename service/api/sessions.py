"""The session routes: create, read, append, fork, rewind, export, import, follow."""

import time
from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import BaseModel, Field

from service.api.caller import caller_of
from service.api.fields import MAX_POSITION, Body, Id, Name, Position, Text
from service.api.http_request import BINARY, check_media_type, raw_body, raw_content
from service.api.sse import NO_MORE_EVENTS, Responses
from service.api.state import AppState, get_state, session_model
from service.api.tgi.responses import replayed, streamed
from service.api.tgi.schemas import STREAMED
from service.errors import CarouselError
from service.models.spec import ModelRef, ModelSpec
from service.sessions.idempotency import idempotency_key
from service.sessions.page import MAX_PAGE, Cursor
from service.sessions.session import (
    DEFAULT_TTL_S,
    LEAST_TTL_S,
    MAX_FORKS,
    MOST_TTL_S,
    EventId,
    Session,
)
from service.sessions.turn_prompt import TurnPrompt

_BINARY_REPLY: Responses = {200: {"content": raw_content(BINARY)}}

router = APIRouter(prefix="/sessions", tags=["sessions"])

IdempotencyKeyHeader = Annotated[str | None, Header(alias="Idempotency-Key")]


class CreateSessionBody(Body):
    """The body of POST /sessions."""

    model: Name | None = None
    session_id: Id | None = None
    text: Text = ""
    ttl_s: int = Field(DEFAULT_TTL_S, ge=LEAST_TTL_S, le=MOST_TTL_S)
    seed: int | None = Field(None, ge=0, lt=2**64)


class AppendBody(Body):
    """The body of POST /sessions/{id}/append."""

    text: Annotated[Text, Field(min_length=1)]
    expected_position: Position | None = None


class ForkBody(Body):
    """The body of POST /sessions/{id}/fork."""

    n: int = Field(1, ge=1, le=MAX_FORKS)
    at: int | None = Field(None, ge=1, le=MAX_POSITION)
    seeds: Literal["derive", "same"] = "derive"


class RewindBody(Body):
    """The body of POST /sessions/{id}/rewind."""

    to: Position


class SessionReply(BaseModel):
    """A session at its position."""

    id: str
    model: str
    digest: str
    position: int
    turn: int
    seed: int
    steered: bool  # whether a part of its text was steered
    state_bytes: int | None  # None if the model was deleted
    created_at: datetime
    expires_at: datetime


class ForksReply(BaseModel):
    """The sessions that a fork created."""

    sessions: list[SessionReply]


class SessionsReply(BaseModel):
    """A page of sessions, the newest first."""

    sessions: list[SessionReply]
    next: str | None  # `after` of the next page; None: this is the last one


class SessionText(BaseModel):
    """A part of the text of a session, and the position after it."""

    text: str
    position: int


@router.post("", status_code=201)
async def create(request: Request, body: CreateSessionBody) -> SessionReply:
    """Create a session; `text` is appended without generating."""
    state = get_state(request)
    model = await state.get(request, body.model)
    served = session_model(model)
    prompt = TurnPrompt(())
    if body.text:
        prompt = TurnPrompt.of(model.tokenizer, body.text, 0, has_text=False)
    if prompt.tokens:
        # before the session exists: its text would be refused
        served.engine.check_capacity(1, state.owner_of(request))
    meter = await state.metering.reserve(request, len(prompt.tokens))
    session = await state.sessions.records.create(
        state.owner_of(request),
        served,
        body.session_id,
        seed=body.seed,
        ttl_s=body.ttl_s,
        most=_most(request),
    )
    meter.begin(len(prompt.tokens))
    if prompt.tokens:
        await state.sessions.turns.append(session, served, prompt)
        session = await state.sessions.records.read(session.key)
    return _reply(state, session)


@router.get("")
async def list_sessions(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
    after: Annotated[str | None, Query(max_length=80)] = None,
) -> SessionsReply:
    """List the sessions, the newest first, page by page. Reading them here does not renew them."""
    state = get_state(request)
    cursor = None if after is None else Cursor.parse(after)
    page = await state.sessions.records.page(state.owner_of(request), limit, cursor)
    return SessionsReply(
        sessions=[_reply(state, session) for session in page.sessions],
        next=None if page.next is None else str(page.next),
    )


@router.post("/import", status_code=201, openapi_extra=raw_body(BINARY))
async def import_(request: Request) -> SessionReply:
    """Create a session from an export of this server, or of one with the same secret."""
    check_media_type(request, BINARY, expected=f"an exported session is {BINARY}")
    state = get_state(request)
    exported = state.sessions.records.open_export(await request.body())
    model = await state.get(request, exported.model)
    await _count(request)
    owner = state.owner_of(request)
    served = session_model(model)
    session = await state.sessions.records.import_(owner, exported, served, _most(request))
    return _reply(state, session)


@router.get("/{session_id}")
async def look(request: Request, session_id: str) -> SessionReply:
    """Return a session."""
    state = get_state(request)
    return _reply(state, await state.sessions.records.read(state.key(request, session_id)))


@router.delete("/{session_id}", status_code=204)
async def delete(request: Request, session_id: str) -> Response:
    """Delete a session and end its running turn. Its forks keep the text that they share."""
    state = get_state(request)
    await state.sessions.records.delete(state.key(request, session_id))
    return Response(status_code=204)


@router.get("/{session_id}/text")
async def text(
    request: Request,
    session_id: str,
    first: Annotated[int, Query(alias="from", ge=0, le=MAX_POSITION)] = 0,
) -> SessionText:
    """Return the text of a session, prompts and completions; of at most a million tokens."""
    state = get_state(request)
    key = state.key(request, session_id)

    async def read(session: Session) -> tuple[str, int]:
        served = session_model(await state.get_for(request, session))
        limit = state.limits.max_session_text_tokens
        return await state.sessions.records.text(key, served, first, limit)

    found, position = await state.sessions.records.with_session(key, read)
    return SessionText(text=found, position=position)


@router.post("/{session_id}/append")
async def append(
    request: Request, session_id: str, body: AppendBody, retry_key: IdempotencyKeyHeader = None
) -> SessionReply:
    """Append a text to a session without generating."""
    state = get_state(request)
    key = state.key(request, session_id)
    retry = idempotency_key(retry_key, "append", lambda: body.fingerprint)

    async def feed(session: Session) -> None:
        model = await state.get_for(request, session)
        served = session_model(model)
        prompt = await state.sessions.records.turn_prompt(session, served, body.text)
        meter = await state.metering.reserve(request, len(prompt.tokens))
        await state.sessions.turns.append(session, served, prompt, retry, body.expected_position)
        meter.begin(len(prompt.tokens))

    await state.sessions.records.with_session(key, feed)
    return _reply(state, await state.sessions.records.read(key))


@router.post("/{session_id}/fork", status_code=201)
async def fork(request: Request, session_id: str, body: ForkBody) -> ForksReply:
    """Create independent sessions that continue this one from now or from an earlier position."""
    state = get_state(request)
    key = state.key(request, session_id)
    await _count(request)
    forks = await state.sessions.records.fork(key, body.n, body.at, body.seeds, _most(request))
    return ForksReply(sessions=[_reply(state, one) for one in forks])


@router.post("/{session_id}/rewind")
async def rewind(request: Request, session_id: str, body: RewindBody) -> SessionReply:
    """Return a session to an earlier position; the text after it is removed."""
    state = get_state(request)
    session = await state.sessions.records.rewind(state.key(request, session_id), body.to)
    return _reply(state, session)


@router.post("/{session_id}/cancel")
async def cancel(
    request: Request,
    session_id: str,
    turn: Annotated[int | None, Query(ge=0, le=MAX_POSITION)] = None,
) -> SessionReply:
    """End the running turn, or only the turn with this number. Does nothing if none runs.

    The session keeps the text that was generated until then.
    """
    state = get_state(request)
    session = await state.sessions.turns.cancel(state.key(request, session_id), turn)
    return _reply(state, session)


@router.get("/{session_id}/state", response_class=Response, responses=_BINARY_REPLY)
async def export(request: Request, session_id: str) -> Response:
    """Export a session as signed bytes."""
    state = get_state(request)
    key = state.key(request, session_id)

    async def export_session(session: Session) -> bytes:
        model = await state.get_for(request, session)
        return await state.sessions.records.export(key, session_model(model))

    return Response(
        await state.sessions.records.with_session(key, export_session), media_type=BINARY
    )


@router.get("/{session_id}/events", response_class=Response, responses=STREAMED | NO_MORE_EVENTS)
async def events(
    request: Request,
    session_id: str,
    after: str | None = None,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID")] = None,
) -> Response:
    """Stream the events of the running or last turn after an event; 204 if none will follow."""
    arrived_s = time.perf_counter()
    state = get_state(request)
    key = state.key(request, session_id)
    last = last_event_id or after
    position = EventId.parse(last) if last else None

    async def follow(session: Session) -> Response:
        model = await state.get_for(request, session)
        replay = await state.sessions.turns.follow(key, session_model(model), position)
        if replay is None:
            return Response(status_code=204)
        return streamed(request, replayed(model, key, replay, arrived_s))

    return await state.sessions.records.with_session(key, follow)


def _most(request: Request) -> int:
    """Return how many sessions the request's owner may have; 0: no limit."""
    limits = get_state(request).metering.limits_of(caller_of(request.scope))
    return limits.stored_sessions or 0


async def _count(request: Request) -> None:
    """Count a request that feeds nothing. Raises as `Limiter.reserve`."""
    meter = await get_state(request).metering.reserve(request, 0)
    meter.begin(0)


def _reply(state: AppState, session: Session) -> SessionReply:
    return SessionReply(
        id=session.key.id,
        model=session.model,
        digest=session.digest,
        position=session.position,
        turn=session.turn.number,
        seed=session.seed,
        steered=bool(session.steer),
        state_bytes=_state_bytes(state, session),
        created_at=datetime.fromtimestamp(session.created_s, UTC),
        expires_at=datetime.fromtimestamp(round(time.time() + session.expires_in_s), UTC),
    )


def _state_bytes(state: AppState, session: Session) -> int | None:
    try:
        info = state.registry.info(ModelRef.parse(session.model))
    except CarouselError:
        return None
    if info.manifest is None:
        return None
    return ModelSpec.from_json(info.manifest.architecture).state_bytes
