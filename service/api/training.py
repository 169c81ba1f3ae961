"""The training routes: upload corpora; submit, read, follow, cancel and publish train jobs."""

import asyncio
import shutil
from collections.abc import AsyncGenerator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import BaseModel, Field, RootModel

from service.api.caller import Caller, caller_of
from service.api.errors import error_event
from service.api.fields import Body, Name, Number
from service.api.files import stored_bytes_of
from service.api.http_request import TEXT, disk_full_as_too_large, media_type, raw_body
from service.api.sse import NO_MORE_EVENTS, Responses, SSEResponse, events_of
from service.api.state import AppState, get_state
from service.errors import CarouselError, CorpusNotFound, Forbidden, TooLarge, Validation
from service.models.cells import CellName
from service.models.spec import ModelRef
from service.training.checkpoint import best_checkpoint
from service.training.job import JobKey, TrainJob
from service.training.job_spec import (
    DEFAULT_MAX_SECONDS,
    DEFAULT_QUEUE,
    QueueName,
    TrainingText,
    make_job_spec,
)
from service.training.queue import JobQueue
from service.training.states import JobState, JobStatus

_EVENTS: Responses = {
    200: {"content": events_of("an event of the job.", "JobEventReply")},
    **NO_MORE_EVENTS,
}

router = APIRouter(tags=["training"])


class CorpusReply(BaseModel):
    """A stored text."""

    id: str
    name: str
    bytes: int
    characters: int
    vocabulary_size: int
    sha256: str
    newlines_replaced: int
    was_composed: bool
    created_at: datetime


class CorporaReply(BaseModel):
    """Every stored text."""

    corpora: list[CorpusReply]


class ArchitectureBody(Body):
    """The architecture of the model."""

    cell: CellName | None = None
    embedding_dim: int | None = None
    units: int | None = None
    layers: int | None = None
    dropout: Number | None = None


class TrainingBody(Body):
    """The hyperparameters of the training."""

    epochs: int | None = None
    batch_size: int | None = None
    sequence_length: int | None = None
    learning_rate: Number | None = None
    validation_fraction: Number | None = None
    patience: int | None = None
    max_seconds: Number | None = None
    validations_per_epoch: int | None = None
    precision: Literal["auto", "float32", "bfloat16"] | None = None
    recurrence: Literal["auto", "own", "cudnn"] | None = None


class JobBody(Body):
    """The body of POST /train-jobs."""

    name: Name
    corpus: Name
    architecture: ArchitectureBody = ArchitectureBody()
    training: TrainingBody = TrainingBody()
    seed: int | None = Field(None, ge=0, lt=2**31)
    initial_model: Name | None = None
    load_when_done: bool = True
    alias: Name | None = None
    queue: QueueName = DEFAULT_QUEUE


class JobReply(BaseModel):
    """A train job with every default."""

    id: str
    status: JobStatus
    name: str
    corpus: str
    architecture: dict[str, Any]
    training: dict[str, Any]
    seed: int
    initial_model: str | None
    load_when_done: bool
    alias: str | None
    queue: QueueName
    attempt: int
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    progress: dict[str, Any] | None
    validation: dict[str, Any] | None
    best: dict[str, Any] | None
    model: str | None
    error: dict[str, str] | None


class JobEventReply(RootModel[dict[str, Any]]):
    """The data of an event; the members depend on the event."""


class JobsReply(BaseModel):
    """An owner's train jobs, the newest first."""

    jobs: list[JobReply]


@router.post("/corpora", status_code=201, openapi_extra=raw_body(TEXT))
async def upload(
    request: Request, name: Annotated[str, Query(min_length=1, max_length=80)]
) -> CorpusReply:
    """Store a corpus; the body is the text in UTF-8. The same text has the same id."""
    state = get_state(request)
    if media_type(request, TEXT).startswith("multipart/"):
        raise Validation("the text is the body itself, not a form: curl --data-binary @FILE")
    training, owner = state.training, state.owner_of(request)
    incoming = await asyncio.to_thread(training.corpora.upload)
    try:
        with disk_full_as_too_large("the text"):
            with incoming.open("xb") as file:
                async for piece in request.stream():
                    await asyncio.to_thread(file.write, piece)
            async with training.checking:
                await asyncio.to_thread(check_stored_bytes, request, incoming)
                card = await asyncio.to_thread(training.corpora.put, owner, name, incoming)
    finally:
        await asyncio.to_thread(incoming.unlink, missing_ok=True)
    return CorpusReply.model_validate(card, from_attributes=True)


@router.get("/corpora")
def list_corpora(request: Request) -> CorporaReply:
    """List the stored corpora."""
    state = get_state(request)
    cards = state.training.corpora.cards(state.owner_of(request))
    return CorporaReply.model_validate({"corpora": cards}, from_attributes=True)


@router.delete("/corpora/{corpus_id}", status_code=204)
def delete_corpus(request: Request, corpus_id: str) -> Response:
    """Delete a corpus that no train job reads which is queued or running."""
    state = get_state(request)
    training, owner = state.training, state.owner_of(request)

    def check_unused() -> None:
        training.queue.check_unused(owner, corpus_id)

    training.corpora.delete(owner, corpus_id, check_unused)
    return Response(status_code=204)


@router.post("/train-jobs", status_code=202)
async def submit(request: Request, response: Response, body: JobBody) -> JobReply:
    """Submit a job; a worker trains the model, which is loaded when the job has succeeded."""
    name = body.initial_model
    initial = None if name is None else get_state(request).resolve(name)
    job = await submit_job(request, body, initial)
    response.headers["Location"] = f"/train-jobs/{job.key.id}"
    return _reply(job)


@router.get("/train-jobs")
def list_jobs(request: Request) -> JobsReply:
    """List the jobs, the newest first."""
    state = get_state(request)
    jobs = state.training.queue.jobs(state.owner_of(request))
    return JobsReply(jobs=[_reply(job) for job in jobs])


@router.get("/train-jobs/{job_id}")
def look(request: Request, job_id: str) -> JobReply:
    """Return a job."""
    state = get_state(request)
    return _reply(state.training.queue.get(JobKey(state.owner_of(request), job_id)))


@router.delete("/train-jobs/{job_id}", status_code=204)
def delete_job(request: Request, job_id: str) -> Response:
    """Delete a job that has ended, with its events and checkpoints. Its model stays."""
    state = get_state(request)
    training, key = state.training, JobKey(state.owner_of(request), job_id)
    if training.queue.get(key).state.is_over:  # the record last: it tells that there is a folder
        shutil.rmtree(training.jobs_dir / key.id, ignore_errors=True)
    training.queue.delete(key)
    return Response(status_code=204)


@router.post("/train-jobs/{job_id}/cancel", status_code=202)
def cancel(request: Request, job_id: str) -> JobReply:
    """End a job within seconds, after a training step. Does nothing if it has ended."""
    state = get_state(request)
    return _reply(state.training.queue.cancel(JobKey(state.owner_of(request), job_id)))


@router.post("/train-jobs/{job_id}/publish", status_code=202)
def publish(request: Request, job_id: str) -> JobReply:
    """Publish the best checkpoint of a cancelled job as its model. Does nothing where it has one.

    A worker stores the model; the job is `queued` and `running` again meanwhile.
    """
    state = get_state(request)
    training, key = state.training, JobKey(state.owner_of(request), job_id)
    is_cancelled = training.queue.get(key).state is JobState.CANCELLED
    if is_cancelled and best_checkpoint(training.jobs_dir / key.id) is None:
        raise Validation("the job has no best checkpoint: it was cancelled before a validation")
    return _reply(training.queue.publish(key))


@router.get("/train-jobs/{job_id}/events", response_class=Response, responses=_EVENTS)
async def events(
    request: Request,
    job_id: str,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", max_length=80)] = None,
) -> Response:
    """Stream the past and future events of a job.

    The last one is `done`; `published` and another `done` follow if a cancelled job is published.
    """
    state = get_state(request)
    queue, key = state.training.queue, JobKey(state.owner_of(request), job_id)
    job = await asyncio.to_thread(queue.get, key)
    first = await asyncio.to_thread(queue.events, key, last_event_id or "0")
    if job.state.is_over and not first:
        return Response(status_code=204)  # an EventSource does not reconnect after this status
    limits = state.limits
    pieces = _pieces(queue, key, last_event_id or "0", limits.event_poll_interval_s)
    return SSEResponse(pieces, {}, lambda: None, limits.ping_interval_s)


async def _pieces(
    queue: JobQueue, key: JobKey, after: str, poll_interval_s: float
) -> AsyncGenerator[bytes, None]:
    is_over = False
    try:
        while not is_over:
            job = await asyncio.to_thread(queue.get, key)
            is_over = job.state.is_over  # read first, so that no event is missed
            while found := await asyncio.to_thread(queue.events, key, after):
                after = found[-1].id
                yield b"".join(
                    f"event: {event.name}\nid: {event.id}\ndata: {event.data}\n\n".encode()
                    for event in found
                )
                if found[-1].name == "done":
                    return
            await asyncio.sleep(0 if is_over else poll_interval_s)
    except CarouselError as error:
        yield error_event(error)


async def submit_job(
    request: Request,
    body: JobBody,
    initial: ModelRef | None,
    labels: Mapping[str, Any] | None = None,
) -> TrainJob:
    """Submit a job that begins as the model `initial`. Raises Forbidden, and as `make_job_spec`."""
    state, caller = get_state(request), caller_of(request.scope)
    check_names(caller, body)
    max_open = state.metering.limits_of(caller).open_jobs
    owner = state.owner_of(request)
    job = await asyncio.to_thread(_submit, state, owner, body, initial, max_open, labels)
    state.metering.ledger.add(owner, train_jobs=1)
    return job


def check_stored_bytes(request: Request, incoming: Path) -> None:
    """Check whether a text may be stored beside the owner's others. Raises TooLarge."""
    state = get_state(request)
    limit = state.metering.limits_of(caller_of(request.scope)).stored_bytes
    if limit is None:
        return
    size_bytes = incoming.stat().st_size
    stored_bytes = stored_bytes_of(state, state.owner_of(request))
    if stored_bytes + size_bytes > limit:
        raise TooLarge(
            f"the text has {size_bytes} bytes, and {stored_bytes} are stored: the limit "
            f"stored_bytes of this key is {limit}; delete a corpus or a file"
        )


def check_names(caller: Caller, body: JobBody) -> None:
    """Raise Forbidden for a model or an alias that the caller's key may not make or move."""
    if body.alias is not None and "admin" not in caller.scopes:
        raise Forbidden(
            f"to move an alias needs a key with the scope admin; this key has "
            f"{', '.join(sorted(caller.scopes))}: submit the job without `alias`",
            "alias",
        )
    if caller.models is not None and body.name not in caller.models:
        names = ", ".join(sorted(caller.models))
        raise Forbidden(f"this key may use no other models than {names}", "name")


def _submit(
    state: AppState,
    owner: str,
    body: JobBody,
    initial: ModelRef | None,
    max_open: int | None,
    labels: Mapping[str, Any] | None,
) -> TrainJob:
    card = state.training.corpora.card(owner, body.corpus)
    spec = make_job_spec(
        body.name,
        TrainingText(card.id, card.characters, card.vocabulary),
        architecture=body.architecture.model_dump(),
        training={"max_seconds": DEFAULT_MAX_SECONDS} | body.training.model_dump(exclude_none=True),
        seed=body.seed,
        initial_model=None if initial is None else state.store.read(initial),
        load_when_done=body.load_when_done,
        alias=body.alias,
        queue=body.queue,
        labels=labels,
    )
    job = state.training.queue.submit(owner, spec, max_open)
    try:
        state.training.corpora.card(owner, card.id)
    except CorpusNotFound:  # it was deleted before its deletion could see the job
        state.training.queue.cancel(job.key)
        state.training.queue.delete(job.key)
        raise
    return job


def _reply(job: TrainJob) -> JobReply:
    return JobReply.model_validate(job.to_json())
