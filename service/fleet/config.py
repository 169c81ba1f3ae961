"""Times of the desired state; `app.py` hands them in."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FleetConfig:
    """Intervals and limits of one process."""

    look_s: float = 0.5  # between two looks at the wish, each of which reports this process
    lifetime_s: float = 5.0  # of a report: a process without a newer one is gone
    poll_s: float = 0.05  # between two looks of a change that waits for other processes, at least
    reports_per_s: float = 4_000.0  # that such a change reads
    wait_s: float = 60.0  # of a change, for every live process
    retry_s: float = 30.0  # before a model that a process could not load is tried again
    again_s: float = 2.0  # before a wish that failed as a whole is tried again
    close_wait_s: float = 2.0  # of a stop, for the store to hear that the process is gone
