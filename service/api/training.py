"""The training routes: texts come in, jobs are submitted, followed and cancelled."""

import asyncio
import errno
import secrets
from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import BaseModel, Field, RootModel

from service.api.bodies import Body, Name, Number
from service.api.sse import SSEResponse
from service.api.state import TrainingServices, get_state
from service.api.tgi.schemas import NOTHING_COMES, Responses, events_of
from service.errors import TooLarge, Validation
from service.models.cells import CellName
from service.models.spec import ModelRef
from service.models.store import ModelStore
from service.training.corpus_store import CorpusCard
from service.training.fine_tuning import architecture_of
from service.training.job import (
    DEFAULT_MAX_SECONDS,
    JobKey,
    JobStatus,
    TrainJob,
    TrainJobSpec,
    check_fits,
)
from service.training.queue import JobQueue
from service.training.recipe import Architecture, Hyperparameters, Recipe, usual_epochs

MAX_CORPUS_BYTES = 64 * 1024 * 1024
POLL_S = 0.25

_TOLD: Responses = {
    200: {"content": events_of("something that was told of the job.", "JobEventReply")},
    **NOTHING_COMES,
}
_TEXT_BODY = {
    "requestBody": {"required": True, "content": {"text/plain": {"schema": {"type": "string"}}}}
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
    """What the model is built of."""

    cell: CellName | None = None
    embedding_dim: int | None = None
    units: int | None = None
    layers: int | None = None
    dropout: Number | None = None


class TrainingBody(Body):
    """How it is trained."""

    epochs: int | None = None
    batch_size: int | None = None
    sequence_length: int | None = None
    learning_rate: Number | None = None
    validation_fraction: Number | None = None
    patience: int | None = None
    max_seconds: Number | None = None
    validations_per_epoch: int | None = None
    precision: Literal["auto", "float32", "bfloat16"] | None = None


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


class JobReply(BaseModel):
    """A train job as it stands, every default written out."""

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
    """What was told: its members are the event's own."""


class JobsReply(BaseModel):
    """An owner's train jobs, the newest first."""

    jobs: list[JobReply]


@router.post("/corpora", status_code=201, openapi_extra=_TEXT_BODY)
async def upload(
    request: Request, name: Annotated[str, Query(min_length=1, max_length=80)]
) -> CorpusReply:
    """Store a text: the body as it is, UTF-8. The same text has the same id."""
    serving = get_state(request)
    owner = serving.owner_of(request)
    kind = request.headers.get("content-type", "text/plain").split(";")[0].strip().lower()
    if kind.startswith("multipart/"):
        raise Validation("the text is the body itself, not a form: curl --data-binary @FILE")
    training = serving.training
    incoming = await asyncio.to_thread(training.corpora.upload)
    try:
        with incoming.open("xb") as file:
            async for piece in request.stream():
                await asyncio.to_thread(file.write, piece)
        async with training.checking:
            card = await asyncio.to_thread(training.corpora.put, owner, name, incoming)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise TooLarge("the server's disk has no room left for the text") from error
    finally:
        await asyncio.to_thread(incoming.unlink, missing_ok=True)
    return _corpus_reply(card)


@router.get("/corpora")
def list_corpora(request: Request) -> CorporaReply:
    """Every stored text."""
    serving = get_state(request)
    cards = serving.training.corpora.cards(serving.owner_of(request))
    return CorporaReply(corpora=[_corpus_reply(card) for card in cards])


@router.post("/train-jobs", status_code=202)
async def submit(request: Request, response: Response, body: JobBody) -> JobReply:
    """Take a job; a worker trains it, and its model is loaded when it is done."""
    serving = get_state(request)
    initial = None
    if body.initial_model is not None:
        initial = serving.registry.resolve(body.initial_model)
    owner = serving.owner_of(request)
    job = await asyncio.to_thread(_submit, serving.training, serving.store, owner, body, initial)
    response.headers["Location"] = f"/train-jobs/{job.key.id}"
    return _reply(job)


@router.get("/train-jobs")
def list_jobs(request: Request) -> JobsReply:
    """Every job, the newest first."""
    serving = get_state(request)
    jobs = serving.training.queue.jobs(serving.owner_of(request))
    return JobsReply(jobs=[_reply(job) for job in jobs])


@router.get("/train-jobs/{job_id}")
def look(request: Request, job_id: str) -> JobReply:
    """A job as it stands."""
    serving = get_state(request)
    return _reply(serving.training.queue.get(JobKey(serving.owner_of(request), job_id)))


@router.post("/train-jobs/{job_id}/cancel", status_code=202)
def cancel(request: Request, job_id: str) -> JobReply:
    """End a job within seconds, at a step's end. Harmless where it is over."""
    serving = get_state(request)
    return _reply(serving.training.queue.cancel(JobKey(serving.owner_of(request), job_id)))


@router.get("/train-jobs/{job_id}/events", response_class=Response, responses=_TOLD)
async def events(
    request: Request,
    job_id: str,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", max_length=80)] = None,
) -> Response:
    """What was told of a job and is told of it, to its end; nothing comes after `done`."""
    serving = get_state(request)
    queue, key = serving.training.queue, JobKey(serving.owner_of(request), job_id)
    job = await asyncio.to_thread(queue.get, key)
    first = await asyncio.to_thread(queue.events, key, last_event_id or "0")
    if job.status.is_over and not first:
        return Response(status_code=204)  # an EventSource that hears this does not come again
    return SSEResponse(_pieces(queue, key, last_event_id or "0"), {}, on_end=lambda: None)


async def _pieces(queue: JobQueue, key: JobKey, after: str) -> AsyncGenerator[bytes, None]:
    is_over = False
    while not is_over:
        job = await asyncio.to_thread(queue.get, key)
        is_over = job.status.is_over  # asked first: what is told comes before
        while found := await asyncio.to_thread(queue.events, key, after):
            after = found[-1].id
            yield b"".join(
                f"event: {event.name}\nid: {event.id}\ndata: {event.data}\n\n".encode()
                for event in found
            )
            if found[-1].name == "done":
                return
        await asyncio.sleep(0 if is_over else POLL_S)


def _submit(
    training: TrainingServices,
    store: ModelStore,
    owner: str,
    body: JobBody,
    initial: ModelRef | None,
) -> TrainJob:
    card = training.corpora.card(owner, body.corpus)
    asked = body.architecture.model_dump(exclude_none=True)
    if initial is None:
        architecture, vocabulary_size = Architecture(**asked), card.vocabulary_size
    else:
        model = store.read(initial)
        architecture = architecture_of(model, asked, card.vocabulary)
        vocabulary_size = model.spec.vocabulary_size
    usual = {"max_seconds": DEFAULT_MAX_SECONDS, "epochs": usual_epochs(card.characters)}
    schedule = body.training.model_dump(exclude={"precision"}, exclude_none=True)
    seed = secrets.randbits(31) if body.seed is None else body.seed
    recipe = Recipe(
        architecture,
        Hyperparameters(**(usual | schedule)),
        seed,
        body.training.precision or "auto",
    )
    order = TrainJobSpec(
        body.name,
        card.id,
        recipe,
        None if initial is None else str(initial),
        body.load_when_done,
        body.alias,
    )
    check_fits(order, vocabulary_size, card.characters)
    return training.queue.submit(owner, order)


def _reply(job: TrainJob) -> JobReply:
    return JobReply.model_validate(job.to_json())


def _corpus_reply(card: CorpusCard) -> CorpusReply:
    return CorpusReply.model_validate(
        {name: getattr(card, name) for name in CorpusReply.model_fields}
    )
