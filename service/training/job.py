"""A train job: what was asked, how it stands, and which changes there are. No clock, no I/O."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self, cast

from service.errors import Validation
from service.models.cells import CELLS
from service.models.spec import MAX_LAYERS, check_name
from service.training.recipe import (
    Architecture,
    Hyperparameters,
    Recipe,
    WantedArithmetic,
    split_index,
)

MAX_CRASHES = 3
"""A job whose process has died so often is the likely cause, and is not tried again."""

MAX_EPOCHS, MAX_SECONDS = 10_000, 7 * 86_400
DEFAULT_MAX_SECONDS = 86_400
MAX_UNITS, MAX_BATCH, MAX_SEQUENCE = 8_192, 4_096, 4_096
MAX_STEP_CHARACTERS = 262_144
MAX_PARAMETERS = 50_000_000


class JobStatus(StrEnum):
    """How a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        """Whether nothing will change any more."""
        return self in {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED}


class Transition(StrEnum):
    """What may happen to a job."""

    CLAIM = "claim"  # an attempt begins
    RELEASE = "release"  # its worker stops and leaves the job to another
    LOSE = "lose"  # its process is gone
    SUCCEED = "succeed"
    FAIL = "fail"
    CANCEL = "cancel"


TRANSITIONS: dict[tuple[JobStatus, Transition], JobStatus] = {
    (JobStatus.QUEUED, Transition.CLAIM): JobStatus.RUNNING,
    (JobStatus.QUEUED, Transition.CANCEL): JobStatus.CANCELLED,
    (JobStatus.QUEUED, Transition.LOSE): JobStatus.QUEUED,  # the queue has lost it
    (JobStatus.RUNNING, Transition.RELEASE): JobStatus.QUEUED,
    (JobStatus.RUNNING, Transition.LOSE): JobStatus.QUEUED,
    (JobStatus.RUNNING, Transition.SUCCEED): JobStatus.SUCCEEDED,
    (JobStatus.RUNNING, Transition.FAIL): JobStatus.FAILED,
    (JobStatus.RUNNING, Transition.CANCEL): JobStatus.CANCELLED,
}


def after(status: JobStatus, change: Transition) -> JobStatus | None:
    """The status that a change leads to; None where it cannot happen."""
    return TRANSITIONS.get((status, change))


@dataclass(frozen=True, slots=True)
class JobKey:
    """Whose job: another owner's same id is no job of one's own."""

    owner: str
    id: str

    def __str__(self) -> str:
        return f"{self.owner}/{self.id}"


@dataclass(frozen=True, slots=True)
class TrainJobSpec:
    """What a job is to do, every default filled in."""

    name: str
    corpus: str
    recipe: Recipe
    initial_model: str | None = None
    load_when_done: bool = True
    alias: str | None = None

    def __post_init__(self) -> None:
        """Raises Validation, which names the limit."""
        check_name(self.name)
        if self.alias is not None:
            check_name(self.alias)
            if not self.load_when_done:
                raise Validation("`alias` needs `load_when_done`: an alias serves what is loaded")
        _check_recipe(self.recipe)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, in the shape of the request's body."""
        return {
            "name": self.name,
            "corpus": self.corpus,
            "architecture": asdict(self.recipe.architecture),
            "training": asdict(self.recipe.schedule) | {"precision": self.recipe.precision},
            "seed": self.recipe.seed,
            "initial_model": self.initial_model,
            "load_when_done": self.load_when_done,
            "alias": self.alias,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Of `to_json`'s value. Raises Validation."""
        training = dict(value["training"])
        precision = training.pop("precision")
        recipe = Recipe(
            Architecture(**value["architecture"]),
            Hyperparameters(**training),
            value["seed"],
            precision,
        )
        rest = {name: value[name] for name in ("initial_model", "load_when_done", "alias")}
        return cls(value["name"], value["corpus"], recipe, **rest)


@dataclass(frozen=True, slots=True)
class TrainJob:
    """A job as its record says. Times are seconds since 1970."""

    key: JobKey
    order: TrainJobSpec
    status: JobStatus
    attempt: int  # counts from 1; only the latest may change anything
    crashes: int
    is_cancelled: bool  # or asked to be
    is_published: bool  # its model is stored, and may still have to be loaded
    created_s: float
    started_s: float | None
    ended_s: float | None
    progress: dict[str, Any] | None
    validation: dict[str, Any] | None
    best: dict[str, Any] | None
    version: int | None  # kept for its model, once there is one
    model: str | None
    error: dict[str, str] | None

    def to_json(self) -> dict[str, Any]:
        """What its owner is shown."""
        return {
            "id": self.key.id,
            "status": self.status,
            **self.order.to_json(),
            "attempt": self.attempt,
            "created_at": self.created_s,
            "started_at": self.started_s,
            "ended_at": self.ended_s,
            "progress": self.progress,
            "validation": self.validation,
            "best": self.best,
            "model": self.model,
            "error": self.error,
        }


def job_spec(
    name: str,
    architecture: dict[str, Any],
    schedule: dict[str, Any],
    seed: int,
    precision: str,
    initial_model: str | None,
) -> TrainJobSpec:
    """An order with the default for everything that is None. Raises Validation."""
    if precision not in {"auto", "float32", "bfloat16"}:
        raise Validation(f"`precision` is {precision!r}; there are auto, float32 and bfloat16")
    recipe = Recipe(
        Architecture(**{k: v for k, v in architecture.items() if v is not None}),
        Hyperparameters(**{k: v for k, v in schedule.items() if v is not None}),
        seed,
        cast("WantedArithmetic", precision),
    )
    return TrainJobSpec(name, "", recipe, initial_model, load_when_done=False)


def _check_recipe(recipe: Recipe) -> None:
    architecture, schedule = recipe.architecture, recipe.schedule
    if architecture.cell not in CELLS:
        raise Validation(f"`cell` is {architecture.cell!r}; there are {', '.join(CELLS)}")
    limits: list[tuple[str, float, float, float]] = [
        ("embedding_dim", architecture.embedding_dim, 1, MAX_UNITS),
        ("units", architecture.units, 1, MAX_UNITS),
        ("layers", architecture.layers, 1, MAX_LAYERS),
        ("dropout", architecture.dropout, 0.0, 0.95),
        ("epochs", schedule.epochs, 1, MAX_EPOCHS),
        ("batch_size", schedule.batch_size, 1, MAX_BATCH),
        ("sequence_length", schedule.sequence_length, 1, MAX_SEQUENCE),
        ("learning_rate", schedule.learning_rate, 1e-7, 1.0),
        ("validation_fraction", schedule.validation_fraction, 0.001, 0.5),
        ("patience", schedule.patience, 1, 10_000),
        (
            "max_seconds",
            1 if schedule.max_seconds is None else schedule.max_seconds,
            1,
            MAX_SECONDS,
        ),
        ("validations_per_epoch", schedule.validations_per_epoch, 1, 100),
        ("seed", recipe.seed, 0, 2**31 - 1),
    ]
    for name, value, least, most in limits:
        if not least <= value <= most:
            raise Validation(f"`{name}` is {value}; it must be from {least} to {most}")
    step = schedule.batch_size * schedule.sequence_length
    if step > MAX_STEP_CHARACTERS:
        raise Validation(
            f"batch_size x sequence_length is {step}; {MAX_STEP_CHARACTERS} characters a step "
            "are the limit"
        )


def check_fits(order: TrainJobSpec, vocabulary_size: int, n_characters: int) -> None:
    """See whether a text is long enough for a recipe and the model small enough.

    Raises:
        Validation: with the limit and what was received.

    """
    parameters = order.recipe.architecture.spec(vocabulary_size).parameters
    if parameters > MAX_PARAMETERS:
        raise Validation(f"the model would have {parameters:,} weights; {MAX_PARAMETERS:,} is most")
    schedule = order.recipe.schedule
    n_training = split_index(n_characters, schedule.validation_fraction)
    n_validation = n_characters - n_training
    least = schedule.batch_size * schedule.sequence_length + 1
    if n_training < least:
        raise Validation(
            f"the text has {n_training:,} characters to learn; batch_size "
            f"{schedule.batch_size} x sequence_length {schedule.sequence_length} needs {least:,}: "
            "lower them or give more text"
        )
    if n_validation < 2:
        raise Validation(
            f"the text leaves {n_validation} characters for validation; it needs 2: "
            "raise validation_fraction"
        )
