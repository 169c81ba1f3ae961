"""The specification of a train job: what to train, with every default filled in and checked."""

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

from service.errors import Validation
from service.models.bundle import Bundle
from service.models.cells import CELLS
from service.models.spec import check_name
from service.training.recipe import (
    Architecture,
    Hyperparameters,
    Recipe,
    WantedArithmetic,
    WantedRecurrence,
    split_index,
    usual_epochs,
)

QueueName = Literal["train-cpu", "train-gpu"]
"""A queue for each kind of machine that trains: a worker takes jobs of the queues it is told."""

DEFAULT_QUEUE: QueueName = "train-cpu"
MAX_EPOCHS, MAX_SECONDS = 10_000, 7 * 86_400
MAX_TRAINED_LAYERS = 4
DEFAULT_MAX_SECONDS = 86_400
MAX_UNITS, MAX_BATCH, MAX_SEQUENCE = 8_192, 4_096, 4_096
MAX_STEP_CHARACTERS = 262_144
MAX_PARAMETERS = 50_000_000


@dataclass(frozen=True, slots=True)
class TrainJobSpec:
    """What a train job does. Raises Validation, which names the limit."""

    name: str
    corpus: str
    recipe: Recipe
    initial_model: str | None = None
    load_when_done: bool = True
    alias: str | None = None
    queue: QueueName = DEFAULT_QUEUE
    labels: Mapping[str, Any] | None = None  # of the request; they change nothing

    def __post_init__(self) -> None:
        """Check everything that needs no text."""
        check_name(self.name)
        if self.queue not in get_args(QueueName):
            raise Validation(f"`queue` is {self.queue!r}; there are {_names(QueueName)}")
        if self.alias is not None:
            check_name(self.alias)
            if not self.load_when_done:
                raise Validation("`alias` needs `load_when_done`: an alias serves what is loaded")
        _check_recipe(self.recipe)

    def to_json(self) -> dict[str, Any]:
        """The specification as plain JSON values, in the shape of the request's body."""
        recurrence = self.recipe.recurrence
        return {
            "name": self.name,
            "corpus": self.corpus,
            "architecture": asdict(self.recipe.architecture),
            "training": self.recipe.schedule.to_json()
            | {"precision": self.recipe.precision}
            | ({"recurrence": recurrence} if recurrence != "auto" else {}),
            "seed": self.recipe.seed,
            "initial_model": self.initial_model,
            "load_when_done": self.load_when_done,
            "alias": self.alias,
            "queue": self.queue,
            **({} if self.labels is None else {"labels": dict(self.labels)}),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The specification that `to_json` wrote. Raises Validation."""
        training = dict(value["training"])
        precision, recurrence = training.pop("precision"), training.pop("recurrence", "auto")
        recipe = Recipe(
            Architecture(**value["architecture"]),
            Hyperparameters.from_json(training),
            value["seed"],
            precision,
            recurrence,
        )
        rest = {name: value[name] for name in ("initial_model", "load_when_done", "alias")}
        queue = value.get("queue", DEFAULT_QUEUE)  # a job of before there were two
        rest["labels"] = value.get("labels")
        return cls(value["name"], value["corpus"], recipe, queue=queue, **rest)


@dataclass(frozen=True, slots=True)
class TrainingText:
    """The facts of a text that a specification depends on."""

    id: str
    n_characters: int
    vocabulary: str | tuple[str, ...]  # every character once


def make_job_spec(
    name: str,
    text: TrainingText,
    *,
    architecture: Mapping[str, Any],
    training: Mapping[str, Any],
    seed: int | None = None,
    initial_model: Bundle | None = None,
    **publication: Any,
) -> TrainJobSpec:
    """Build a job's specification from a request; what is None there gets its default.

    `training` holds the hyperparameters, `precision` and `recurrence`; `publication` the fields
    `load_when_done`, `alias`, `queue` and `labels`. Raises Validation as TrainJobSpec,
    `architecture_of` and `check_fits`.
    """
    layers = {key: value for key, value in architecture.items() if value is not None}
    if initial_model is None:
        shape, vocabulary_size = Architecture(**layers), len(text.vocabulary)
    else:
        shape = architecture_of(initial_model, layers, text.vocabulary)
        vocabulary_size = initial_model.spec.vocabulary_size
    values = {key: value for key, value in training.items() if value is not None}
    precision = values.pop("precision", "auto")
    if precision not in get_args(WantedArithmetic):
        raise Validation(f"`precision` is {precision!r}; there are auto, float32 and bfloat16")
    recurrence = values.pop("recurrence", "auto")
    if recurrence not in get_args(WantedRecurrence):
        raise Validation(f"`recurrence` is {recurrence!r}; there are auto, own and cudnn")
    recipe = Recipe(
        shape,
        Hyperparameters(**({"epochs": usual_epochs(text.n_characters)} | values)),
        secrets.randbits(31) if seed is None else seed,
        precision,
        recurrence,
    )
    ref = None if initial_model is None else str(initial_model.ref)
    spec = TrainJobSpec(name, text.id, recipe, ref, **publication)
    check_fits(spec, vocabulary_size, text.n_characters)
    return spec


def architecture_of(
    model: Bundle, requested: Mapping[str, Any], characters: Iterable[str]
) -> Architecture:
    """The architecture of a model to fine-tune, for a text of these characters.

    Raises Validation where `requested` differs, or the model cannot be trained here or on the text.
    """
    ref, spec = model.ref, model.spec
    if spec.embedding_dim is None:
        raise Validation(
            f"{ref} reads one-hot characters; only a model with an embedding is trained here"
        )
    first = spec.recurrent_layers[0]
    own = {
        "cell": str(first.cell),
        "embedding_dim": spec.embedding_dim,
        "units": first.units,
        "layers": len(spec.recurrent_layers),
    }
    for name, value in own.items():
        if name in requested and requested[name] != value:
            raise Validation(
                f"`{name}` is {requested[name]!r}, but {ref} has {value!r}; leave it out"
            )
    architecture = Architecture(**{**requested, **own})
    if architecture.spec(spec.vocabulary_size) != spec:
        raise Validation(f"{ref} is {spec.summary} of a kind that is served but not trained here")
    missing = sorted(set(characters) - set(model.tokenizer.tokens))
    if missing:
        raise Validation(
            f"the text has {len(missing)} characters that {ref} does not know, "
            f"{''.join(missing[:8])!r} among them; an initial model's vocabulary must cover it"
        )
    return architecture


def _names(choices: Any) -> str:
    return " and ".join(get_args(choices))


def _check_recipe(recipe: Recipe) -> None:
    architecture, schedule = recipe.architecture, recipe.schedule
    if architecture.cell not in CELLS:
        raise Validation(f"`cell` is {architecture.cell!r}; there are {', '.join(CELLS)}")
    limit_s = schedule.max_seconds
    limits: list[tuple[str, float, float, float]] = [
        ("embedding_dim", architecture.embedding_dim, 1, MAX_UNITS),
        ("units", architecture.units, 1, MAX_UNITS),
        ("layers", architecture.layers, 1, MAX_TRAINED_LAYERS),
        ("dropout", architecture.dropout, 0.0, 0.95),
        ("epochs", schedule.epochs, 1, MAX_EPOCHS),
        ("batch_size", schedule.batch_size, 1, MAX_BATCH),
        ("sequence_length", schedule.sequence_length, 1, MAX_SEQUENCE),
        ("learning_rate", schedule.learning_rate, 1e-7, 1.0),
        ("validation_fraction", schedule.validation_fraction, 0.001, 0.5),
        ("patience", schedule.patience, 1, 10_000),
        ("max_seconds", MAX_SECONDS if limit_s is None else limit_s, 1, MAX_SECONDS),
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


def check_fits(spec: TrainJobSpec, vocabulary_size: int, n_characters: int) -> None:
    """Raises Validation where the text is too short for the recipe, or the model too large."""
    parameters = spec.recipe.architecture.spec(vocabulary_size).parameters
    if parameters > MAX_PARAMETERS:
        raise Validation(f"the model would have {parameters:,} weights; {MAX_PARAMETERS:,} is most")
    schedule = spec.recipe.schedule
    n_training = split_index(n_characters, schedule.validation_fraction)
    n_validation = n_characters - n_training
    least = schedule.batch_size * schedule.sequence_length + 1
    if n_training < least:
        raise Validation(
            f"the text has {n_training:,} characters to train on; batch_size "
            f"{schedule.batch_size} x sequence_length {schedule.sequence_length} needs {least:,}: "
            "lower them or give more text"
        )
    if n_validation < 2:
        raise Validation(
            f"the text leaves {n_validation} characters for validation; it needs 2: "
            "raise validation_fraction"
        )
