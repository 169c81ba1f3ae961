"""The training loop: steps, validations, checkpoints, and when to stop."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from service import errors
from service.models.initializers import initial_weights
from service.models.reference import ReferenceModel
from service.models.spec import Weights
from service.models.tokenizers.characters import CharacterTokenizer
from service.training import checkpoint
from service.training.corpus import BPTTBatches, Corpus, EvaluationBatches
from service.training.events import (
    CheckpointEvent,
    ProgressEvent,
    SampleEvent,
    TrainEvent,
    ValidationEvent,
)
from service.training.matmul import resolved
from service.training.recipe import Recipe, WantedArithmetic
from service.training.recurrence_choice import (
    RecurrenceChoice,
    Step,
    choose_recurrence,
    gpu_name,
)
from service.training.result import StopReason, Trained
from service.training.sample import sample_text
from service.training.train_step import TrainStep

PROGRESS_EVERY_S = 1.0
CHECKPOINT_EVERY_S = 30.0


def train(
    corpus: Corpus,
    vocabulary: Sequence[str],
    recipe: Recipe,
    folder: Path,
    *,
    initial: Weights | None = None,
    report: Callable[[TrainEvent], None],
    should_stop: Callable[[], bool],
) -> Trained:
    """Train on the text, or resume from the checkpoint in `folder`. Blocks.

    `should_stop` is called between two steps, and between the chunks of a validation. A resumed
    training ends with the same bits as an uninterrupted one, on the same machine.

    Raises:
        Validation: the text is too short, a loss is not finite, or the folder has another training.
        UnknownCharacter: the vocabulary does not cover the text.
        BadCheckpoint: the model is beyond its limits, or `initial` or the checkpoint does not fit.

    """
    training = _Training(corpus, vocabulary, recipe, folder, initial, resolved)
    return training.run(report, should_stop)


def framework_versions() -> dict[str, str]:
    """The versions of TensorFlow and Keras, for the bundle's record."""
    return {"tensorflow": tf.__version__, "keras": keras.__version__}


class _Training:
    """One run of `train`: its train step, its clock and its history."""

    _report: Callable[[TrainEvent], None]
    _should_stop: Callable[[], bool]

    def __init__(
        self,
        corpus: Corpus,
        vocabulary: Sequence[str],
        recipe: Recipe,
        folder: Path,
        initial: Weights | None,
        resolve: Callable[[WantedArithmetic], str],
        device_of: Callable[[], str] = gpu_name,
    ) -> None:
        schedule = recipe.schedule
        self._recipe, self._folder = recipe, folder
        self._spec = recipe.architecture.spec(len(vocabulary))
        split = corpus.split(vocabulary, schedule.validation_fraction)
        self._batches = BPTTBatches(split.training, schedule.batch_size, schedule.sequence_length)
        self._evaluation = EvaluationBatches(split.validation)
        self._tokenizer, self._prompt = (
            CharacterTokenizer(vocabulary),
            split.validation[:1].tolist(),
        )
        self._bytes_per_character = split.validation_bytes / max(1, len(split.validation))
        self._n_steps = self._batches.n_chunks * schedule.epochs
        if self._n_steps < 1:
            raise errors.Validation(f"epochs is {schedule.epochs}; it must be at least 1")
        self._validate_every = max(1, self._batches.n_chunks // schedule.validations_per_epoch)
        if initial is None:
            weights, initial_sha256 = initial_weights(self._spec, recipe.seed), None
        else:
            weights = Weights(self._spec, initial)
            initial_sha256 = _sha256(weight.tobytes() for weight in weights.values())
        last = checkpoint.read(folder / checkpoint.LAST)
        if recipe.precision == "auto" and last is not None:  # it keeps the one it began with
            self._precision = str(last.facts["identity"]["precision"])
        else:
            self._precision = resolve(recipe.precision)
        self._recurrence = self._chosen_recurrence(last, weights, device_of)
        self._train_step = self._step_of(weights, self._recurrence.name)
        self._identity = {
            "recipe": recipe.to_json(),
            "precision": self._precision,
            "corpus_sha256": corpus.sha256,
            "vocabulary_sha256": _sha256([json.dumps(list(vocabulary)).encode()]),
            "initial_sha256": initial_sha256,
        }
        if self._recurrence.name != "own":  # so that trainings that began without it go on
            self._identity["recurrence"] = self._recurrence.to_json()
        self._history: list[ValidationEvent] = []
        self._losses: list[float] = []  # since the last validation
        self._elapsed_before_s = 0.0
        if last is not None:
            self._resume(last)

    def _step_of(self, weights: Weights, recurrence: str) -> TrainStep:
        parts = self._spec, self._recipe, self._n_steps, weights, self._precision
        return TrainStep(*parts, recurrence)

    def _chosen_recurrence(
        self, last: checkpoint.Snapshot | None, weights: Weights, device_of: Callable[[], str]
    ) -> RecurrenceChoice:
        """Return what the training began with or, of a new one, what is wanted and faster here."""
        if last is not None:
            return RecurrenceChoice(**last.facts["identity"].get("recurrence", {}))

        def steps() -> dict[str, Step]:
            made = {name: self._step_of(weights, name) for name in ("own", "cudnn")}
            chunk = self._batches.chunk(0, 0)
            return {name: partial(one.learn, chunk, is_first=True) for name, one in made.items()}

        return choose_recurrence(self._recipe.recurrence, self._spec, device_of(), steps)

    def run(self, report: Callable[[TrainEvent], None], should_stop: Callable[[], bool]) -> Trained:
        self._report, self._should_stop = report, should_stop
        self._began = self._saved = self._reported = time.monotonic()
        began_at = self._train_step.step
        while (stop_reason := self._stop_reason()) is None:
            is_due = self._is_through or self._train_step.step % self._validate_every == 0
            if is_due and self._is_unevaluated:
                self._validate()
                continue
            self._one_step()
            self._progress(self._train_step.step - began_at)
            if time.monotonic() - self._saved >= CHECKPOINT_EVERY_S:
                self._save_last()
        if stop_reason is StopReason.OUT_OF_TIME and self._is_unevaluated:
            self._validate()
            if self._is_unevaluated:
                stop_reason = StopReason.STOPPED  # during the validation, which stays due
        if self._train_step.step > began_at:
            self._save_last()
        best = checkpoint.read(self._folder / checkpoint.BEST)
        return Trained(
            self._spec,
            None if best is None else Weights(self._spec, best.arrays),
            None if best is None else ValidationEvent(**best.facts["validation"]),
            stop_reason,
            self._train_step.step,
            self._n_steps,
            tuple(self._history),
            self._elapsed_s,
            self._precision,
            self._recurrence.to_json(),
        )

    def _stop_reason(self) -> StopReason | None:
        if self._is_through and not self._is_unevaluated:
            return StopReason.COMPLETED
        newest_first = enumerate(reversed(self._history))
        since_best = next((i for i, one in newest_first if one.is_best), len(self._history))
        if since_best >= self._recipe.schedule.patience:
            return StopReason.OUT_OF_PATIENCE
        limit = self._recipe.schedule.max_seconds
        if limit is not None and self._elapsed_s >= limit:
            return StopReason.OUT_OF_TIME
        return StopReason.STOPPED if self._should_stop() else None

    def _one_step(self) -> None:
        epoch, index = divmod(self._train_step.step, self._batches.n_chunks)
        rng = np.random.default_rng((self._recipe.seed, epoch))
        start = int(rng.integers(self._batches.n_spare + 1))
        loss = self._train_step.learn(self._batches.chunk(index, start), is_first=index == 0)
        self._check_finite(loss, f"loss of step {self._train_step.step}")
        self._losses.append(loss)

    def _check_finite(self, loss: float, name: str) -> None:
        if not math.isfinite(loss):
            raise errors.Validation(
                f"the {name} is {loss}; "
                f"lower learning_rate, which is {self._recipe.schedule.learning_rate}"
            )

    def _progress(self, ran: int) -> None:
        now = time.monotonic()
        if now - self._reported < PROGRESS_EVERY_S:
            return
        self._reported = now
        schedule = self._recipe.schedule
        seconds = (now - self._began) / ran
        self._report(
            ProgressEvent(
                step=self._train_step.step,
                n_steps=self._n_steps,
                epoch=self._epoch,
                training_nats=float(np.mean(self._losses[-20:])),
                characters_per_second=schedule.batch_size * schedule.sequence_length / seconds,
                eta_s=seconds * (self._n_steps - self._train_step.step),
                elapsed_s=self._elapsed_s,
            )
        )

    def _validate(self) -> None:
        """Evaluate, report and save. Does nothing where it is stopped: the validation stays due."""
        nats = self._train_step.evaluate(self._evaluation, self._should_stop)
        if nats is None:
            return
        self._check_finite(nats, f"validation loss after step {self._train_step.step}")
        bits = nats / math.log(2.0)
        best = min((v.validation_nats for v in self._history), default=math.inf)
        validation = ValidationEvent(
            step=self._train_step.step,
            n_steps=self._n_steps,
            epoch=self._epoch,
            training_nats=float(np.mean(self._losses)),
            validation_nats=nats,
            bits_per_character=bits,
            bits_per_byte=bits / self._bytes_per_character,
            perplexity=math.exp(nats) if nats < 700.0 else math.inf,  # e^709 is the largest float
            elapsed_s=self._elapsed_s,
            is_best=nats < best,
        )
        self._history.append(validation)
        self._losses.clear()
        self._report(validation)
        weights = self._train_step.weights()
        text = sample_text(ReferenceModel(self._spec, weights), self._tokenizer, self._prompt)
        self._report(SampleEvent(self._train_step.step, text))
        if validation.is_best:
            self._write(checkpoint.BEST, weights, {"validation": asdict(validation)})
        self._save_last()

    def _save_last(self) -> None:
        facts = {
            "step": self._train_step.step,
            "elapsed_s": self._elapsed_s,
            "losses": self._losses,
        }
        self._write(checkpoint.LAST, self._train_step.arrays(), facts)
        self._saved = time.monotonic()

    def _write(self, name: str, arrays: checkpoint.Arrays, facts: dict[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / name
        history = [asdict(validation) for validation in self._history]
        checkpoint.write(path, arrays, {"identity": self._identity, **facts, "history": history})
        self._report(CheckpointEvent(self._train_step.step, path.stem, str(path)))

    def _resume(self, last: checkpoint.Snapshot) -> None:
        if last.facts["identity"] != self._identity:
            before = last.facts["identity"]
            other = sorted(k for k, v in self._identity.items() if before.get(k) != v)
            raise errors.Validation(
                f"the folder holds another training: {', '.join(other)} differs; take a new folder"
            )
        self._train_step.restore(last.arrays, last.facts["step"])
        self._losses = last.facts["losses"]
        self._history = [ValidationEvent(**validation) for validation in last.facts["history"]]
        self._elapsed_before_s = last.facts["elapsed_s"]

    @property
    def _is_through(self) -> bool:
        return self._train_step.step >= self._n_steps

    @property
    def _is_unevaluated(self) -> bool:
        """Whether a step was taken since the last validation."""
        evaluated_at = self._history[-1].step if self._history else 0
        return self._train_step.step > evaluated_at

    @property
    def _epoch(self) -> float:
        return self._train_step.step / self._batches.n_chunks

    @property
    def _elapsed_s(self) -> float:
        return self._elapsed_before_s + time.monotonic() - self._began


def _sha256(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
