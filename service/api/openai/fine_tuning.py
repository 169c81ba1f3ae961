"""The routes of fine-tuning jobs, as OpenAI has them: train jobs over uploaded files."""

import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from service.api.batches import check_metadata
from service.api.caller import caller_of
from service.api.http_request import disk_full_as_too_large
from service.api.json_size import JsonSize
from service.api.openai.fine_tuning_schemas import (
    FineTuningBody,
    FineTuningEvent,
    FineTuningEvents,
    FineTuningList,
    FineTuningReply,
    TuningCheckpoint,
    TuningCheckpoints,
    TuningParameters,
    TuningProblem,
)
from service.api.state import AppState, get_state
from service.api.training import (
    JobBody,
    TrainingBody,
    check_names,
    check_stored_bytes,
    submit_job,
)
from service.errors import ModelNotFound, TooLarge, Validation, about
from service.models.cells import CELLS
from service.models.spec import ModelRef, check_name
from service.training.examples import write_text
from service.training.job import JobKey, TrainJob
from service.training.queue import StoredEvent
from service.training.recipe import Hyperparameters
from service.training.states import JobStatus

PURPOSE = "fine-tune"
_SUFFIX = "ft"
_SHOWN = ("n_epochs", "batch_size", "learning_rate_multiplier")

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["training"])

After = Annotated[str | None, Query(max_length=80)]
Limit = Annotated[int, Query(ge=1, le=100)]


@router.post("")
async def create_fine_tuning_job(request: Request, body: FineTuningBody) -> FineTuningReply:
    """Train a model on a file; `fine_tuned_model` of the job can then be completed with.

    `model` is a stored model, whose weights the training begins with, or a cell such as `lstm`, for
    a new model.
    """
    state = get_state(request)
    check_metadata(body.metadata)
    base, initial = _base(state, body.model)
    name = f"{base}-{body.suffix or _SUFFIX}"
    with about("suffix"):
        check_name(name)
    training = _training(body)
    architecture = body.architecture
    if initial is None:
        if architecture.cell not in {None, base}:
            raise Validation(
                f"`model` is {base}, and `cell` is {architecture.cell}", "architecture"
            )
        architecture = architecture.model_copy(update={"cell": base})
    job = JobBody(
        name=name,
        corpus="",  # until it is stored
        architecture=architecture,
        training=training,
        seed=body.seed,
        initial_model=None if initial is None else str(initial),
    )
    check_names(caller_of(request.scope), job)
    corpus = await _corpus(request, state, body.training_file)
    job = job.model_copy(update={"corpus": corpus})
    labels = {
        "model": body.model,
        "training_file": body.training_file,
        "metadata": body.metadata,
        "hyperparameters": _parameters(body).model_dump(),
    }
    return _reply(await submit_job(request, job, initial, labels))


@router.get("")
def list_fine_tuning_jobs(
    request: Request, limit: Limit = 20, after: After = None
) -> FineTuningList:
    """List the jobs, the newest first, those of POST /train-jobs among them."""
    state = get_state(request)
    found = state.training.queue.jobs(state.owner_of(request))
    first = _place([job.key.id for job in found], after)
    page = found[first : first + limit]
    return FineTuningList(data=[_reply(job) for job in page], has_more=first + limit < len(found))


@router.get("/{job_id}")
def look_at_fine_tuning_job(request: Request, job_id: str) -> FineTuningReply:
    """Return a job."""
    return _reply(_job(request, job_id))


@router.post("/{job_id}/cancel")
def cancel_fine_tuning_job(request: Request, job_id: str) -> FineTuningReply:
    """End a job within seconds, after a training step. Does nothing if it has ended."""
    state = get_state(request)
    return _reply(state.training.queue.cancel(JobKey(state.owner_of(request), job_id)))


@router.get("/{job_id}/events")
def list_fine_tuning_events(
    request: Request, job_id: str, limit: Limit = 20, after: After = None
) -> FineTuningEvents:
    """List what has happened in a job, the newest first."""
    state, job = get_state(request), _job(request, job_id)
    found: list[StoredEvent] = []
    while more := state.training.queue.events(job.key, found[-1].id if found else "0"):
        found += more
    found.reverse()
    first = _place([event.id for event in found], after)
    page = found[first : first + limit]
    return FineTuningEvents(
        data=[_event(event) for event in page], has_more=first + limit < len(found)
    )


@router.get("/{job_id}/checkpoints")
def list_fine_tuning_checkpoints(request: Request, job_id: str) -> TuningCheckpoints:
    """List the checkpoints that can be completed with: the best one, once it is the job's model."""
    job = _job(request, job_id)
    data = []
    if job.model is not None and job.best is not None:
        names = {"training_nats": "train_loss", "validation_nats": "valid_loss"}
        metrics = {shown: job.best[name] for name, shown in names.items() if name in job.best}
        step = int(job.best.get("step", 0))
        data.append(
            TuningCheckpoint(
                id=f"{job.key.id}-best",
                created_at=int(job.ended_s or job.created_s),
                fine_tuned_model_checkpoint=job.model,
                fine_tuning_job_id=job.key.id,
                step_number=step,
                metrics={"step": float(step), **metrics},
            )
        )
    ids = [one.id for one in data]
    return TuningCheckpoints(
        data=data, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None
    )


def _job(request: Request, job_id: str) -> TrainJob:
    state = get_state(request)
    return state.training.queue.get(JobKey(state.owner_of(request), job_id))


def _base(state: AppState, name: str) -> tuple[str, ModelRef | None]:
    """Return the beginning of the new model's name, and the model that it begins as.

    A stored model is meant before a cell. Raises as AppState.resolve.
    """
    try:
        with about("model"):
            ref = state.resolve(name)
    except ModelNotFound as error:
        if name in CELLS:
            return name, None
        raise ModelNotFound(
            f"{error}; for a new model `model` is a cell: {', '.join(CELLS)}", "model"
        ) from error
    return ref.name, ref


def _parameters(body: FineTuningBody) -> TuningParameters:
    """Return OpenAI's hyperparameters, from either of the places that it has for them."""
    supervised = None if body.method is None else body.method.supervised
    inner = None if supervised is None else supervised.hyperparameters
    if inner is not None and body.hyperparameters is not None:
        raise Validation(
            "`hyperparameters` is there twice; leave the one beside `method` out", "hyperparameters"
        )
    return inner or body.hyperparameters or TuningParameters()


def _training(body: FineTuningBody) -> TrainingBody:
    given = _parameters(body)
    found: dict[str, Any] = {}
    if given.n_epochs != "auto":
        found["epochs"] = given.n_epochs
    if given.batch_size != "auto":
        found["batch_size"] = given.batch_size
    if given.learning_rate_multiplier != "auto":
        found["learning_rate"] = given.learning_rate_multiplier * Hyperparameters().learning_rate
    for name in found:
        if getattr(body.training, name) is not None:
            raise Validation(
                f"`training.{name}` is in `hyperparameters`, too; leave one of them out", "training"
            )
    return body.training.model_copy(update=found)


async def _corpus(request: Request, state: AppState, file_id: str) -> str:
    """Store the text of a file as a corpus, and return its id. Raises Validation."""
    files, training, owner = state.batches.files, state.training, state.owner_of(request)

    def excess(line: bytes) -> str | None:
        size = JsonSize()
        size.add(line)
        return size.excess(state.limits.json)

    def store(incoming: Path) -> str:
        source = files.content(owner, file_id)
        card = files.card(owner, file_id)
        if card.purpose != PURPOSE:
            raise Validation(f"the file was not uploaded with the purpose {PURPOSE}")
        with disk_full_as_too_large("the text"):
            write_text(source, incoming, excess)
            size, limit = incoming.stat().st_size, state.limits.max_corpus_bytes
            if size > limit:
                raise TooLarge(f"the text has {size} bytes; at most {limit} are trained on")
            check_stored_bytes(request, incoming)
            return training.corpora.put(owner, card.filename[:80], incoming).id

    with about("training_file"):
        async with training.checking:
            incoming = await asyncio.to_thread(training.corpora.upload)
            try:
                return await asyncio.to_thread(store, incoming)
            finally:
                await asyncio.to_thread(incoming.unlink, missing_ok=True)


def _place(ids: list[str], after: str | None) -> int:
    return ids.index(after) + 1 if after in ids else 0


def _reply(job: TrainJob) -> FineTuningReply:
    spec = job.spec
    labels: Mapping[str, Any] = spec.labels or {}
    schedule = spec.recipe.schedule
    step = None if job.progress is None else job.progress.get("step")
    left_s = None if job.progress is None else job.progress.get("eta_s")
    is_running = job.status is JobStatus.RUNNING and left_s is not None
    given: dict[str, Any] = dict(labels.get("hyperparameters") or {})
    own = {"n_epochs": schedule.epochs, "batch_size": schedule.batch_size}
    rate = schedule.learning_rate / Hyperparameters().learning_rate
    shown = own | {"learning_rate_multiplier": round(rate, 9)}
    error = job.error
    return FineTuningReply(
        id=job.key.id,
        created_at=int(job.created_s),
        finished_at=None if job.ended_s is None else int(job.ended_s),
        estimated_finish=int(time.time() + left_s) if is_running and left_s is not None else None,
        status=job.status,
        model=str(labels.get("model") or spec.initial_model or spec.recipe.architecture.cell),
        fine_tuned_model=job.model if job.status is JobStatus.SUCCEEDED else None,
        organization_id=job.key.owner,
        hyperparameters=shown,
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {name: given.get(name, "auto") for name in _SHOWN}},
        },
        seed=spec.recipe.seed,
        training_file=str(labels.get("training_file") or spec.corpus),
        trained_tokens=(
            step * schedule.batch_size * schedule.sequence_length
            if step is not None and job.status is JobStatus.SUCCEEDED
            else None
        ),
        error=(
            None
            if error is None
            else TuningProblem(code=error["error_type"], message=error["error"])
        ),
        metadata=labels.get("metadata"),
    )


def _event(event: StoredEvent) -> FineTuningEvent:
    data: dict[str, Any] = json.loads(event.data)
    is_failed = "error" in data and data["error"] is not None
    is_metrics = event.name in {"progress", "validation"}
    return FineTuningEvent(
        id=event.id,
        created_at=int(event.id.partition("-")[0]) // 1_000,
        level="error" if is_failed else "info",
        message=_message(event.name, data),
        type="metrics" if is_metrics else "message",
        data=data,
    )


def _message(name: str, data: Mapping[str, Any]) -> str:
    if name == "progress":
        return (
            f"Step {data['step']}/{data['n_steps']}: training loss={data['training_nats']:.4f}, "
            f"{data['eta_s']:.0f} s left"
        )
    if name == "validation":
        return (
            f"Step {data['step']}/{data['n_steps']}: training loss={data['training_nats']:.4f}, "
            f"validation loss={data['validation_nats']:.4f}"
        )
    if name == "sample":
        return f"Sample at step {data['step']}: {data['text']}"
    if name == "checkpoint":
        return f"Checkpoint at step {data['step']}: {data['name']}"
    status = data.get("status") or data.get("error") or ""
    return f"{name}: {status}" if status else name
