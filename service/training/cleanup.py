"""The leftovers of a job that is over: its best checkpoint, other files, an orphaned model."""

import shutil
from pathlib import Path

from service.models.spec import ModelRef
from service.models.store import ModelStore
from service.training.checkpoint import BEST
from service.training.job import TrainJob
from service.training.states import JobState


def best_checkpoint(folder: Path) -> Path | None:
    """The best checkpoint of the latest attempt that has one, in the folder of a job."""
    return max(folder.glob(f"*/{BEST}"), key=lambda path: _number(path.parent), default=None)


def clean(folder: Path, state: JobState) -> None:
    """Clear the folder of a job that is done with it, but for a cancelled one's best checkpoint."""
    if not state.is_over and state is not JobState.PUBLISHED:
        return
    best = best_checkpoint(folder) if state is JobState.CANCELLED else None
    if best is None:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in folder.glob("*/*"):
        if path != best:
            path.unlink(missing_ok=True)


def orphan(job: TrainJob, store: ModelStore) -> ModelRef | None:
    """The model that was stored for a job that has ended without one, if there is one.

    A process that is suspended between its last check of the fence and the rename stores it when it
    resumes.
    """
    if not job.state.is_over or job.model is not None or job.version is None:
        return None
    ref = ModelRef(job.spec.name, job.version)
    manifest = store.manifest(ref)
    return ref if manifest is not None and manifest.training.get("job") == job.key.id else None


def _number(attempt: Path) -> int:
    return int(attempt.name.rpartition("-")[2])
