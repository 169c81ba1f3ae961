"""Request and reply bodies of /v1/fine_tuning/jobs."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from service.api.fields import Body, Id, Name, Number
from service.api.training import ArchitectureBody, TrainingBody
from service.training.states import JobStatus

Auto = Literal["auto"]


class TuningParameters(Body):
    """OpenAI's hyperparameters; `auto` is the default of a train job."""

    n_epochs: int | Auto = "auto"
    batch_size: int | Auto = "auto"
    learning_rate_multiplier: Number | Auto = "auto"


class SupervisedMethod(Body):
    """The parameters of supervised training."""

    hyperparameters: TuningParameters | None = None


class TuningMethod(Body):
    """The method of training: there is one."""

    type: Literal["supervised"]
    supervised: SupervisedMethod | None = None


class FineTuningBody(Body):
    """The body of POST /v1/fine_tuning/jobs; `architecture` and `training` are of train jobs."""

    model: Name
    training_file: Id
    validation_file: None = None
    hyperparameters: TuningParameters | None = None
    method: TuningMethod | None = None
    integrations: Annotated[list[Any], Field(max_length=0)] | None = None
    suffix: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    seed: int | None = Field(None, ge=0, lt=2**31)
    metadata: dict[str, str] | None = None
    architecture: ArchitectureBody = ArchitectureBody()
    training: TrainingBody = TrainingBody()


class TuningProblem(BaseModel):
    """Why a job has failed."""

    code: str
    message: str
    param: None = None


class FineTuningReply(BaseModel):
    """A fine-tuning job; times are seconds since 1970, each null until it comes."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    estimated_finish: int | None
    status: JobStatus
    model: str
    fine_tuned_model: str | None
    organization_id: str
    hyperparameters: dict[str, int | float | str]
    method: dict[str, Any]
    seed: int
    training_file: str
    validation_file: None = None
    result_files: list[str] = []
    trained_tokens: int | None
    integrations: list[str] = []
    error: TuningProblem | None
    metadata: dict[str, str] | None


class FineTuningList(BaseModel):
    """A page of an owner's jobs, the newest first."""

    object: Literal["list"] = "list"
    data: list[FineTuningReply]
    has_more: bool


class FineTuningEvent(BaseModel):
    """An event of a job. `data` is what a train job's event has."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any]


class FineTuningEvents(BaseModel):
    """A page of the events of a job, the newest first."""

    object: Literal["list"] = "list"
    data: list[FineTuningEvent]
    has_more: bool


class TuningCheckpoint(BaseModel):
    """A checkpoint that can be used: the one that was published."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: dict[str, float]


class TuningCheckpoints(BaseModel):
    """The checkpoints of a job that can be used."""

    object: Literal["list"] = "list"
    data: list[TuningCheckpoint]
    first_id: str | None
    last_id: str | None
    has_more: Literal[False] = False
