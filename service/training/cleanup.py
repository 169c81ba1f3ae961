"""What a job that is over may have left behind: its checkpoints, and a model that nobody wants."""

import shutil
from pathlib import Path

from service.models.spec import ModelRef
from service.models.store import ModelStore
from service.training.checkpoint import BEST
from service.training.job import JobStatus, TrainJob


def tidy(folder: Path, status: JobStatus) -> None:
    """Clear the folder of a job that is over; a cancelled one keeps its best checkpoint."""
    if not status.is_over:
        return
    best = None
    if status is JobStatus.CANCELLED:
        best = max(folder.glob(f"*/{BEST}"), key=lambda path: _number(path.parent), default=None)
    if best is None:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in folder.glob("*/*"):
        if path != best:
            path.unlink(missing_ok=True)


def orphan(job: TrainJob, store: ModelStore) -> ModelRef | None:
    """The model that was stored for a job that has ended without one, if there is one.

    A process that sleeps between its last look at the record and the rename does so on waking.
    """
    if not job.status.is_over or job.model is not None or job.version is None:
        return None
    ref = ModelRef(job.order.name, job.version)
    manifest = store.manifest(ref)
    return ref if manifest is not None and manifest.training.get("job") == job.key.id else None


def _number(attempt: Path) -> int:
    return int(attempt.name.rpartition("-")[2])
