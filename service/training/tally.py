"""What this server has seen of all owners' train jobs: how many, what they read, how they ended."""

from collections import Counter
from collections.abc import Mapping, Sequence

from service.training.job import JobKey, TrainJob

RETRIED = "retried"


class JobTally:
    """Counts train jobs from one look at the queue to the next. Belongs to one event loop."""

    def __init__(self) -> None:
        self.by_status: Mapping[str, int] = {}  # of the jobs that are not over
        self.characters = 0
        self.attempts: Counter[str] = Counter()  # that have ended, by outcome
        self._open: dict[JobKey, TrainJob] = {}

    def gone(self, jobs: Sequence[TrainJob]) -> list[JobKey]:
        """Return the jobs that were open at the last look and are not among `jobs`."""
        keys = {job.key for job in jobs}
        return [key for key in self._open if key not in keys]

    def look(self, jobs: Sequence[TrainJob], ended: Sequence[TrainJob]) -> None:
        """Take the open jobs, and those that have ended since the last look."""
        for job in (*jobs, *ended):
            before = self._open.get(job.key)
            if before is not None:
                self.characters += max(0, _characters(job) - _characters(before))
                if job.attempt > before.attempt:
                    self.attempts[RETRIED] += job.attempt - before.attempt
        for job in ended:
            self.attempts[str(job.status)] += 1
        self.by_status = Counter(str(job.status) for job in jobs)
        self._open = {job.key: job for job in jobs}


def _characters(job: TrainJob) -> int:
    """Return how many characters the steps of a job have read."""
    schedule = job.spec.recipe.schedule
    # The progress is told once a second, so the last steps are in the last validation alone.
    step = max(int((each or {}).get("step", 0)) for each in (job.progress, job.validation))
    return step * schedule.batch_size * schedule.sequence_length
