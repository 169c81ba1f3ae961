"""One attempt at a train job: from the text to the stored model, or to a checkpoint."""

import contextlib
import errno
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from service.errors import CarouselError, Exists, OutOfTime, StoreFull, StoreUnavailable
from service.models.spec import ModelRef, Weights
from service.models.store import ModelStore
from service.training.checkpoint import BEST, LAST, best_checkpoint, clean
from service.training.config import AttemptConfig
from service.training.corpus import Corpus
from service.training.corpus_store import CorpusStore
from service.training.events import CheckpointEvent, ProgressEvent, TrainEvent, ValidationEvent
from service.training.heartbeat import Heartbeat
from service.training.job import JobKey, TrainJob
from service.training.job_spec import TrainJobSpec
from service.training.job_store import Fenced
from service.training.queue import JobQueue
from service.training.result import StopReason, Trained
from service.training.states import JobState, Transition

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

BundleFiles = Callable[[ModelRef], dict[str, bytes]]
"""The files of a bundle, for the name that its model gets."""


@dataclass(frozen=True, slots=True)
class TrainBackend:
    """The functions of an attempt that need TensorFlow: `trainer.train`, `publication.package`."""

    train: Callable[..., Trained]
    package: Callable[[TrainJobSpec, str, Corpus, tuple[str, ...], Trained], BundleFiles]


def tensorflow_backend() -> TrainBackend:
    """The backend of every worker: an attempt begins before the seconds that the imports take."""

    def train(*arguments: Any, **options: Any) -> Trained:
        from service.training import trainer  # noqa: PLC0415 (TensorFlow)

        return trainer.train(*arguments, **options)

    def package(*arguments: Any) -> BundleFiles:
        from service.training import publication  # noqa: PLC0415 (matplotlib, TensorFlow)

        return publication.package(*arguments)

    return TrainBackend(train, package)


@dataclass(frozen=True, slots=True)
class AttemptFolders:
    """The folders of an attempt: texts, models, and the checkpoints of its job."""

    corpora: CorpusStore
    models: ModelStore
    checkpoints: Path


class Attempt:
    """One attempt at a job, in a process of its own."""

    def __init__(
        self,
        queue: JobQueue,
        folders: AttemptFolders,
        key: JobKey,
        number: int,
        backend: TrainBackend,
        config: AttemptConfig,
    ) -> None:
        self._queue, self._corpora, self._models = queue, folders.corpora, folders.models
        self._folder, self._key, self._number = folders.checkpoints, key, number
        self._backend, self._config = backend, config
        self._heartbeat = Heartbeat(queue, key, number, config)

    def leave(self) -> None:
        """Stop at the end of the step; another attempt continues. From any thread."""
        self._heartbeat.is_leaving = True

    def run(self) -> None:
        """Train, or publish a best checkpoint; record the model or the error. Blocks."""
        with contextlib.suppress(Fenced):
            job = self._queue.claim(self._key, self._number)
            self._heartbeat.start()
            try:
                outcome, error = self._outcome(job)
            finally:
                self._heartbeat.stop()
            try:
                state = self._retry(lambda: self._record(job, outcome, error))
            except (StoreUnavailable, StoreFull) as error:
                _log.warning("the next attempt continues the job %s: %s", self._key.id, error)
            else:
                clean(self._folder, state)

    def _outcome(self, job: TrainJob) -> tuple[ModelRef | Transition, dict[str, str] | None]:
        """The stored model or how else the attempt ends, and the error of a failure."""
        try:
            is_publication = job.state is JobState.PUBLISHING
            return self._publish(job) if is_publication else self._train(job), None
        except Fenced:
            raise
        except (StoreUnavailable, StoreFull):  # not an error of the job
            return Transition.RELEASE, None
        except CarouselError as failure:
            error = _error(str(failure), failure.code)
        except MemoryError:
            error = _error("the machine has not enough memory for this job", "out_of_memory")
        except OSError as failure:
            if failure.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            error = _error("the disk is too full for this job", "disk_full")
        except Exception:  # noqa: BLE001 (the record has to hold the job's end)
            _log.exception("the job %s has failed", self._key.id)
            error = _error("the training has failed; see the worker's log", "training_failed")
        return Transition.FAIL, error

    def _record(
        self, job: TrainJob, outcome: ModelRef | Transition, error: dict[str, str] | None
    ) -> JobState:
        if isinstance(outcome, ModelRef):
            job = self._queue.stored(self._key, self._number, str(outcome))
            if job.spec.load_when_done:
                return job.state  # the reconciler of a server loads it
            outcome = Transition.SUCCEED
        if outcome is Transition.RELEASE:
            return self._queue.release(self._key, self._number)
        return self._queue.finish(job, outcome, error)

    def _train(self, job: TrainJob) -> ModelRef | Transition:
        corpus, vocabulary, initial = self._inputs(job)
        trained = self._backend.train(
            corpus,
            vocabulary,
            job.spec.recipe,
            self._checkpoints(),
            initial=initial,
            report=self._report,
            should_stop=self._heartbeat.should_stop,
        )
        if trained.stop_reason is StopReason.STOPPED:
            return Transition.RELEASE
        if trained.weights is None:
            raise OutOfTime("no validation was reached in time: raise max_seconds")
        return self._write(job, corpus, vocabulary, trained)

    def _publish(self, job: TrainJob) -> ModelRef:
        """Store the best checkpoint of a cancelled job."""
        corpus, vocabulary, _ = self._inputs(job)
        path = best_checkpoint(self._folder) or self._folder / BEST
        spec = job.spec.recipe.architecture.spec(len(vocabulary))
        return self._write(job, corpus, vocabulary, Trained.from_best(path, spec))

    def _inputs(self, job: TrainJob) -> tuple[Corpus, tuple[str, ...], Weights | None]:
        """The text, the vocabulary, and the weights of the initial model if there is one."""
        corpus = self._corpora.read(self._key.owner, job.spec.corpus)
        if job.spec.initial_model is None:
            return corpus, corpus.vocabulary, None
        bundle = self._models.read(ModelRef.parse(job.spec.initial_model))
        return corpus, bundle.tokenizer.tokens, bundle.weights

    def _checkpoints(self) -> Path:
        """This attempt's own folder, with links to the checkpoints of the attempt before.

        An attempt that is lost and still runs writes into its own folder only.
        """
        own = self._folder / f"attempt-{self._number}"
        own.mkdir(parents=True, exist_ok=True)
        for number in range(self._number - 1, 0, -1):
            before = self._folder / f"attempt-{number}"
            found = [name for name in (BEST, LAST) if (before / name).is_file()]
            for name in found:
                if not (own / name).exists():
                    os.link(before / name, own / name)  # files are replaced, never changed
            if found:
                break
        return own

    def _report(self, event: TrainEvent) -> None:
        data: dict[str, Any] = asdict(event)
        fields: dict[str, Any] = {}
        match event:
            case ProgressEvent():
                fields["progress"] = data
            case ValidationEvent():
                fields["validation"] = data
                if event.is_best:
                    fields["best"] = data
            case CheckpointEvent():
                data.pop("path")  # of this machine only
        try:
            self._queue.report(self._key, self._number, event.kind, data, **fields)
        except CarouselError as error:  # training continues without it
            _log.warning("an event of the job %s is lost: %s", self._key.id, error)

    def _write(
        self, job: TrainJob, corpus: Corpus, vocabulary: tuple[str, ...], trained: Trained
    ) -> ModelRef:
        """Store the model once, under the version that the record reserves for this job."""
        files = self._backend.package(job.spec, job.key.id, corpus, vocabulary, trained)
        attempt, version = (self._key, self._number), job.version
        check_fence = partial(self._retry, partial(self._queue.renew, *attempt))
        while True:
            if version is None:
                version = self._models.next_version(job.spec.name)
                self._retry(partial(self._queue.report, *attempt, "", {}, version=version))
            ref = ModelRef(job.spec.name, version)
            try:
                self._models.write(ref, files(ref), check_fence)
            except Exists:
                manifest = self._models.manifest(ref)
                if manifest is None or manifest.training.get("job") != job.key.id:
                    version = None  # another job's: take the next one
                    continue
            return ref  # stored by this attempt or, for the same job, by an earlier one

    def _retry(self, action: Callable[[], _T]) -> _T:
        """Repeat an action while the store of jobs is unavailable, for store_wait_s at most."""
        until = time.monotonic() + self._config.store_wait_s
        while True:
            try:
                return action()
            except (StoreUnavailable, StoreFull):
                if time.monotonic() >= until:
                    raise
                time.sleep(self._config.store_retry_s)


def _error(message: str, code: str) -> dict[str, str]:
    return {"error": message, "error_type": code}
