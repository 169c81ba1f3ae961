"""The routes of batches: create, list, look and cancel, as OpenAI has them."""

import asyncio
import re
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from service.api.caller import caller_of
from service.api.fields import Body, Id
from service.api.files import expiry_s
from service.api.state import get_state
from service.batch.batch_store import BatchRecord, BatchSpec, BatchStatus, new_batch_id
from service.batch.call import ROUTES
from service.errors import RateLimited, Validation, about

MAX_OPEN = 100  # batches of an owner that are not over
MAX_METADATA, MAX_NAME_CHARACTERS, MAX_VALUE_CHARACTERS = 16, 64, 512
_WINDOW = re.compile(r"([1-9]\d{0,5})([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_MOST_WINDOW_S = 30 * 86_400
_RETRY_AFTER_S = 10.0

router = APIRouter(prefix="/v1/batches", tags=["files"])


class OutputExpiry(Body):
    """When the files of a batch are deleted."""

    anchor: Literal["created_at"]
    seconds: int


class BatchBody(Body):
    """The body of POST /v1/batches."""

    input_file_id: Id
    endpoint: Annotated[str, Field(max_length=80)]
    completion_window: Annotated[str, Field(max_length=16)]
    metadata: dict[str, str] | None = None
    output_expires_after: OutputExpiry | None = None


class BatchProblem(BaseModel):
    """Why a batch has failed."""

    code: str
    message: str
    line: None = None
    param: None = None


class BatchProblems(BaseModel):
    """All reasons."""

    object: Literal["list"] = "list"
    data: list[BatchProblem]


class RequestCounts(BaseModel):
    """How many lines there are, and how many are answered or have failed."""

    total: int
    completed: int
    failed: int


class BatchReply(BaseModel):
    """A batch; times are seconds since 1970, each null until it comes."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: BatchProblems | None
    input_file_id: str
    completion_window: str
    status: BatchStatus
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    metadata: dict[str, str] | None


class BatchesReply(BaseModel):
    """A page of an owner's batches, the newest first."""

    object: Literal["list"] = "list"
    data: list[BatchReply]
    first_id: str | None
    last_id: str | None
    has_more: bool


@router.post("")
async def create_batch(request: Request, body: BatchBody) -> BatchReply:
    """Begin to answer every line of a file, until the window ends; the answers are a file too."""
    state, caller = get_state(request), caller_of(request.scope)
    window_s = _window_s(body.completion_window)
    if body.endpoint not in ROUTES:
        raise Validation(f"`endpoint` is one of {', '.join(ROUTES)}", "endpoint")
    check_metadata(body.metadata)
    after = body.output_expires_after
    expires_in_s = None if after is None else expiry_s(after.anchor, after.seconds)
    owner, now_s = state.owner_of(request), int(time.time())
    spec = BatchSpec(
        new_batch_id(),
        owner,
        caller.key_id,
        body.endpoint,
        body.input_file_id,
        body.completion_window,
        now_s,
        now_s + window_s,
        expires_in_s,
        body.metadata,
    )
    files, store = state.batches.files, state.batches.store

    def create() -> BatchRecord:
        n_open = sum(not one.state.status.is_over for one in store.all(owner))
        if n_open >= MAX_OPEN:
            raise RateLimited(
                f"{n_open} batches of this owner are not over; the limit is {MAX_OPEN}: wait for "
                "one, or cancel one",
                _RETRY_AFTER_S,
            )
        with about("input_file_id"):
            content = files.content(owner, body.input_file_id)
        if files.card(owner, body.input_file_id).purpose != "batch":
            raise Validation("the file was not uploaded with the purpose batch", "input_file_id")
        return store.create(spec, content)

    return _reply(await asyncio.to_thread(create))


@router.get("")
def list_batches(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(max_length=80)] = None,
) -> BatchesReply:
    """List the batches, the newest first."""
    state = get_state(request)
    found = state.batches.store.all(state.owner_of(request))
    ids = [one.spec.id for one in found]
    first = ids.index(after) + 1 if after in ids else 0
    page = found[first : first + limit]
    return BatchesReply(
        data=[_reply(one) for one in page],
        first_id=page[0].spec.id if page else None,
        last_id=page[-1].spec.id if page else None,
        has_more=first + limit < len(found),
    )


@router.get("/{batch_id}")
def look_at_batch(request: Request, batch_id: str) -> BatchReply:
    """Return a batch."""
    state = get_state(request)
    return _reply(state.batches.store.get(state.owner_of(request), batch_id))


@router.post("/{batch_id}/cancel")
def cancel_batch(request: Request, batch_id: str) -> BatchReply:
    """End a batch within seconds; what is answered becomes its files."""
    state = get_state(request)
    return _reply(state.batches.store.cancel(state.owner_of(request), batch_id))


def _window_s(text: str) -> int:
    found = _WINDOW.fullmatch(text)
    window_s = int(found[1]) * _UNIT_S[found[2]] if found else 0
    if not 0 < window_s <= _MOST_WINDOW_S:
        raise Validation(
            f"`completion_window` is {text!r}; it is a number and s, m, h or d, such as 24h, and "
            "at most 30d",
            "completion_window",
        )
    return window_s


def check_metadata(metadata: dict[str, str] | None) -> None:
    """Raise Validation where there is too much of it."""
    found = metadata or {}
    is_long = any(
        len(name) > MAX_NAME_CHARACTERS or len(value) > MAX_VALUE_CHARACTERS
        for name, value in found.items()
    )
    if is_long or len(found) > MAX_METADATA:
        raise Validation(
            f"`metadata` has at most {MAX_METADATA} members, each a name of "
            f"{MAX_NAME_CHARACTERS} and a value of {MAX_VALUE_CHARACTERS} characters",
            "metadata",
        )


def _reply(batch: BatchRecord) -> BatchReply:
    spec, state = batch.spec, batch.state
    times: dict[str, Any] = {
        f"{status}_at": state.times.get(status)
        for status in BatchStatus
        if status is not BatchStatus.VALIDATING
    }
    times["cancelling_at"] = batch.cancelled_at
    problems = [BatchProblem(code=one.code, message=one.message) for one in state.errors]
    return BatchReply(
        id=spec.id,
        endpoint=spec.endpoint,
        errors=BatchProblems(data=problems) if problems else None,
        input_file_id=spec.input_file_id,
        completion_window=spec.completion_window,
        status=batch.status,
        output_file_id=state.output_file_id,
        error_file_id=state.error_file_id,
        created_at=spec.created_at,
        expires_at=spec.expires_at,
        request_counts=RequestCounts(
            total=state.total, completed=state.completed, failed=state.failed
        ),
        metadata=spec.metadata,
        **times,
    )
