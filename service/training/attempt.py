"""One attempt at a train job: from the text to the stored model, or to where the next goes on."""

import contextlib
import errno
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from service.errors import CarouselError, Exists, OutOfTime, StoreFull, StoreUnavailable
from service.models.spec import ModelRef, Weights
from service.models.store import ModelStore
from service.training.checkpoint import BEST, LAST
from service.training.cleanup import tidy
from service.training.corpus import Corpus
from service.training.corpus_store import CorpusStore
from service.training.events import CheckpointEvent, ProgressEvent, TrainEvent, ValidationEvent
from service.training.heartbeat import Heartbeat
from service.training.job import JobKey, JobStatus, TrainJob, Transition, after
from service.training.publication import Publication
from service.training.queue import Fenced, JobQueue

PATIENCE_S, AGAIN_S = 30.0, 0.5
"""How long what has been learnt waits for a store of jobs that is away."""

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Attempt:
    """Runs once, in a process of its own."""

    def __init__(
        self,
        queue: JobQueue,
        corpora: CorpusStore,
        store: ModelStore,
        folder: Path,
        key: JobKey,
        number: int,
    ) -> None:
        """`folder` is where the job's attempts have their checkpoints."""
        self._queue, self._corpora, self._store = queue, corpora, store
        self._folder, self._key, self._number = folder, key, number
        self._pulse = Heartbeat(queue, key, number)

    def leave(self) -> None:
        """Stop at the end of the step, for another worker to go on. From any thread."""
        self._pulse.shall_leave = True

    def run(self) -> None:
        """Train and publish. Blocks; whatever goes wrong is in the job's record, or its end is."""
        with contextlib.suppress(Fenced):
            job = self._queue.claim(self._key, self._number)
            self._pulse.start()
            try:
                change, error = self._outcome(job)
            finally:
                self._pulse.stop()
            self._settle(change, error)

    def _outcome(self, job: TrainJob) -> tuple[Transition | None, dict[str, str] | None]:
        """What becomes of the job, and why it has failed."""
        try:
            return self._train(job), None
        except Fenced:
            raise
        except (StoreUnavailable, StoreFull):  # the text is not to blame
            return Transition.RELEASE, None
        except CarouselError as failure:
            error = _error(str(failure), failure.code)
        except MemoryError:
            error = _error("the machine has no memory left for this job", "out_of_memory")
        except OSError as failure:
            if failure.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            error = _error("the disk has no room left for this job", "disk_full")
        except Exception:  # noqa: BLE001 (the record has to say that it ended)
            _log.exception("the job %s has failed", self._key.id)
            error = _error("the training has failed; the worker's log says why", "training_failed")
        return Transition.FAIL, error

    def _settle(self, change: Transition | None, error: dict[str, str] | None) -> None:
        key, number = self._key, self._number
        try:
            if change is Transition.RELEASE:
                _patiently(lambda: self._queue.release(key, number))
            elif change is not None:
                _patiently(lambda: self._queue.settle(key, number, change, error))
        except (StoreUnavailable, StoreFull) as away:
            _log.warning("the job %s is left to the next attempt: %s", key.id, away)
            return
        ended = JobStatus.SUCCEEDED if change is None else after(JobStatus.RUNNING, change)
        assert ended is not None
        tidy(self._folder, ended)

    def _train(self, job: TrainJob) -> Transition | None:
        """Train; returns what becomes of the job, None where its loading is still to come."""
        from service.training.trainer import StopReason, train  # noqa: PLC0415 (TensorFlow: seconds)

        corpus = self._corpora.read(self._key.owner, job.order.corpus)
        vocabulary, initial = self._beginning(job, corpus)
        trained = train(
            corpus,
            vocabulary,
            job.order.recipe,
            self._checkpoints(),
            initial=initial,
            report=self._report,
            should_stop=self._pulse.shall_stop,
        )
        if trained.ending is StopReason.STOPPED:
            return Transition.CANCEL if self._pulse.is_cancelled else Transition.RELEASE
        if trained.weights is None:
            raise OutOfTime("nothing was judged before the time was up: raise max_seconds")
        ref = self._publish(job, Publication.of(job.order, job.key.id, corpus, vocabulary, trained))
        loads = job.order.load_when_done
        told = {"model": str(ref)}
        self._surely_tell("published", told, model=str(ref), published=loads)
        return None if loads else Transition.SUCCEED

    def _beginning(self, job: TrainJob, corpus: Corpus) -> tuple[tuple[str, ...], Weights | None]:
        if job.order.initial_model is None:
            return corpus.vocabulary, None
        bundle = self._store.read(ModelRef.parse(job.order.initial_model))
        return bundle.tokenizer.tokens, bundle.weights

    def _checkpoints(self) -> Path:
        """This attempt's own folder, with what the one before had: a zombie writes into its own."""
        own = self._folder / f"attempt-{self._number}"
        own.mkdir(parents=True, exist_ok=True)
        for number in range(self._number - 1, 0, -1):
            before = self._folder / f"attempt-{number}"
            kept = [name for name in (BEST, LAST) if (before / name).is_file()]
            for name in kept:
                if not (own / name).exists():
                    os.link(before / name, own / name)  # files are replaced, never changed
            if kept:
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
                data.pop("path")  # of this machine, not for people
        try:
            self._queue.tell(self._key, self._number, event.kind, data, **fields)
        except CarouselError as error:  # the text is learnt all the same
            _log.warning("an event of the job %s was lost: %s", self._key.id, error)

    def _surely_tell(self, name: str, data: dict[str, Any], **fields: Any) -> None:
        _patiently(lambda: self._queue.tell(self._key, self._number, name, data, **fields))

    def _look(self) -> None:
        """Raises Superseded where this attempt may change nothing any more."""
        _patiently(lambda: self._queue.beat(self._key, self._number))

    def _publish(self, job: TrainJob, publication: Publication) -> ModelRef:
        """Store the model once, under the version that the record keeps for this job."""
        version = job.version
        while True:
            if version is None:
                version = self._store.next_version(job.order.name)
                self._surely_tell("", {}, version=version)
            ref = ModelRef(job.order.name, version)
            try:
                self._store.write(ref, publication.files(ref), self._look)
            except Exists:
                manifest = self._store.manifest(ref)
                if manifest is None or manifest.training.get("job") != job.key.id:
                    version = None  # somebody else's: the next one
                    continue
            return ref  # of this attempt or, the same to the bit, of an earlier one


def _patiently(deed: Callable[[], _T]) -> _T:
    """Do it, again where the store of jobs is away; after PATIENCE_S, raise what it says."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return deed()
        except (StoreUnavailable, StoreFull):
            if time.monotonic() >= until:
                raise
            time.sleep(AGAIN_S)


def _error(sentence: str, code: str) -> dict[str, str]:
    return {"error": sentence, "error_type": code}
