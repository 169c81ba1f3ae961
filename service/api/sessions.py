"""Sessions: made, looked at, fed, forked, rewound, moved, followed."""

import time
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Header, HTTPException, Query, Request, Response
from pydantic import BaseModel

from service.api.bodies import (
    MAX_POSITION,
    AppendBody,
    CreateSessionBody,
    ForkBody,
    RewindBody,
)
from service.api.state import AppState, get_state, session_model
from service.api.tgi.responses import job_of_replay, streamed
from service.api.tgi.schemas import NOTHING_COMES, STREAMED, Responses
from service.errors import CarouselError
from service.models.spec import ModelRef, ModelSpec
from service.sessions.idempotency import idempotency_key
from service.sessions.session import EventId, Session

MAX_IMPORT_BYTES = 64 * 1024 * 1024
MAX_TEXT = 1_000_000

BINARY = "application/octet-stream"

# Read by the route itself: FastAPI would take one that calls itself JSON apart in the event loop.
_BINARY_BODY = {
    "requestBody": {
        "required": True,
        "content": {BINARY: {"schema": {"type": "string", "format": "binary"}}},
    }
}

_BINARY_REPLY: Responses = {
    200: {"content": {BINARY: {"schema": {"type": "string", "format": "binary"}}}}
}

router = APIRouter(prefix="/sessions", tags=["sessions"])

IdempotencyKey = Annotated[str | None, Header(alias="Idempotency-Key")]


class SessionReply(BaseModel):
    """A session as it stands."""

    id: str
    model: str
    digest: str
    position: int
    turn: int
    seed: int
    state_bytes: int | None  # None where the model is not stored any more
    created_at: datetime
    expires_at: datetime


class ForksReply(BaseModel):
    """The sessions that a fork has made."""

    sessions: list[SessionReply]


class SessionText(BaseModel):
    """A part of what a session has consumed and said, and the position after it."""

    text: str
    position: int


@router.post("", status_code=201)
async def create(request: Request, body: CreateSessionBody) -> SessionReply:
    """Make a session, and feed it a text if there is one."""
    serving = get_state(request)
    model = serving.get(body.model)
    voice = session_model(model)
    prompt = model.tokenizer.encode(body.text)
    if prompt:
        voice.engine.check_capacity()  # before there is a session whose text would be refused
    session = await serving.sessions.records.create(
        serving.owner_of(request), voice, body.session_id, seed=body.seed, ttl_s=body.ttl_s
    )
    if prompt:
        await serving.sessions.turns.append(session, voice, prompt)
        session = await serving.sessions.records.read(session.key)
    return _reply(serving, session)


@router.post("/import", status_code=201, openapi_extra=_BINARY_BODY)
async def import_(request: Request) -> SessionReply:
    """Make a session of one that was exported here or on a server with the same secret."""
    kind = request.headers.get("content-type", BINARY).partition(";")[0].strip().lower()
    if kind != BINARY:
        raise HTTPException(415, f"an exported session is {BINARY}, not {kind[:80]}")
    serving = get_state(request)
    exported = serving.sessions.records.open_export(await request.body())
    model = serving.get(exported.model)
    owner = serving.owner_of(request)
    return _reply(
        serving, await serving.sessions.records.import_(owner, exported, session_model(model))
    )


@router.get("/{session_id}")
async def look(request: Request, session_id: str) -> SessionReply:
    """A session as it stands."""
    serving = get_state(request)
    return _reply(serving, await serving.sessions.records.read(serving.key(request, session_id)))


@router.delete("/{session_id}", status_code=204)
async def delete(request: Request, session_id: str) -> Response:
    """Remove a session; its turn ends, if one runs. What forks share of its text stays theirs."""
    serving = get_state(request)
    await serving.sessions.records.delete(serving.key(request, session_id))
    return Response(status_code=204)


@router.get("/{session_id}/text")
async def text(
    request: Request,
    session_id: str,
    first: Annotated[int, Query(alias="from", ge=0, le=MAX_POSITION)] = 0,
) -> SessionText:
    """What a session has consumed and said; a million characters at a time."""
    serving = get_state(request)
    key = serving.key(request, session_id)

    async def read(session: Session) -> tuple[str, int]:
        voice = session_model(serving.get_for(session))
        return await serving.sessions.records.text(key, voice, first, MAX_TEXT)

    said, position = await serving.sessions.records.with_session(key, read)
    return SessionText(text=said, position=position)


@router.post("/{session_id}/append")
async def append(
    request: Request, session_id: str, body: AppendBody, retry_key: IdempotencyKey = None
) -> SessionReply:
    """Feed a session without generating."""
    serving = get_state(request)
    key = serving.key(request, session_id)
    retry = idempotency_key(retry_key, "append", body)

    async def feed(session: Session) -> None:
        model = serving.get_for(session)
        prompt, voice = model.tokenizer.encode(body.text), session_model(model)
        await serving.sessions.turns.append(session, voice, prompt, retry, body.expected_position)

    await serving.sessions.records.with_session(key, feed)
    return _reply(serving, await serving.sessions.records.read(key))


@router.post("/{session_id}/fork", status_code=201)
async def fork(request: Request, session_id: str, body: ForkBody) -> ForksReply:
    """Make sessions that go on from here, or from an earlier position, each on its own."""
    serving = get_state(request)
    key = serving.key(request, session_id)
    forks = await serving.sessions.records.fork(key, body.n, body.at, body.seeds)
    return ForksReply(sessions=[_reply(serving, one) for one in forks])


@router.post("/{session_id}/rewind")
async def rewind(request: Request, session_id: str, body: RewindBody) -> SessionReply:
    """Cut a session back to how it was at a position."""
    serving = get_state(request)
    session = await serving.sessions.records.rewind(serving.key(request, session_id), body.to)
    return _reply(serving, session)


@router.post("/{session_id}/cancel")
async def cancel(
    request: Request,
    session_id: str,
    turn: Annotated[int | None, Query(ge=0, le=MAX_POSITION)] = None,
) -> SessionReply:
    """End the turn that runs, or only the one with this number; harmless where none does.

    The session keeps what had been said until then.
    """
    serving = get_state(request)
    session = await serving.sessions.turns.cancel(serving.key(request, session_id), turn)
    return _reply(serving, session)


@router.get("/{session_id}/state", response_class=Response, responses=_BINARY_REPLY)
async def export(request: Request, session_id: str) -> Response:
    """All of a session as signed bytes."""
    serving = get_state(request)
    key = serving.key(request, session_id)

    async def export_it(session: Session) -> bytes:
        return await serving.sessions.records.export(key, session_model(serving.get_for(session)))

    return Response(await serving.sessions.records.with_session(key, export_it), media_type=BINARY)


@router.get("/{session_id}/events", response_class=Response, responses=STREAMED | NOTHING_COMES)
async def events(
    request: Request,
    session_id: str,
    after: str | None = None,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID")] = None,
) -> Response:
    """The running or last turn's events after one of them; 204 where none is to come."""
    began_s = time.perf_counter()
    serving = get_state(request)
    key = serving.key(request, session_id)
    last = last_event_id or after
    position = EventId.parse(last) if last else None

    async def follow(session: Session) -> Response:
        model = serving.get_for(session)
        replay = await serving.sessions.turns.follow(key, session_model(model), position)
        if replay is None:
            return Response(status_code=204)
        return streamed(job_of_replay(model, key, replay, began_s))

    return await serving.sessions.records.with_session(key, follow)


def _reply(serving: AppState, session: Session) -> SessionReply:
    return SessionReply(
        id=session.key.id,
        model=session.model,
        digest=session.digest,
        position=session.position,
        turn=session.turn.number,
        seed=session.seed,
        state_bytes=_state_bytes(serving, session),
        created_at=datetime.fromtimestamp(session.created_s, UTC),
        expires_at=datetime.fromtimestamp(round(time.time() + session.expires_in_s), UTC),
    )


def _state_bytes(serving: AppState, session: Session) -> int | None:
    try:
        listing = serving.registry.listing(ModelRef.parse(session.model))
    except CarouselError:
        return None
    if listing.manifest is None:
        return None
    return ModelSpec.from_json(listing.manifest.architecture).state_bytes
