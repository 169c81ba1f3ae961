"""The leftovers of a job that is over: its best checkpoint, and other files."""

import shutil
from pathlib import Path

from service.training.checkpoint import BEST
from service.training.states import JobState


def best_checkpoint(folder: Path) -> Path | None:
    """The best checkpoint of the latest attempt that has one, in the folder of a job."""

    def attempt(path: Path) -> int:
        return int(path.parent.name.rpartition("-")[2])

    return max(folder.glob(f"*/{BEST}"), key=attempt, default=None)


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
