"""The outcome of a change: which processes have carried it out, which have not, and why."""

from collections.abc import Iterable
from dataclasses import dataclass

from service.fleet.report import ProcessPhase, ProcessReport
from service.models.spec import ModelRef


@dataclass(frozen=True, slots=True)
class ProcessProgress:
    """How far one process is with a change."""

    process: str
    revision: int  # that it has reached
    is_settled: bool  # it has carried the change out, or has failed to
    problem: str | None = None  # None: it is carried out


@dataclass(frozen=True, slots=True)
class FleetOutcome:
    """A change in every process that serves. Of a process without others it is empty."""

    revision: int = 0
    processes: tuple[ProcessProgress, ...] = ()

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing left to wait for."""
        return all(each.is_settled for each in self.processes)

    @property
    def is_everywhere(self) -> bool:
        """Whether every process has carried it out."""
        return not self.lacking

    @property
    def lacking(self) -> tuple[ProcessProgress, ...]:
        """The processes that have not carried it out."""
        return tuple(each for each in self.processes if each.problem is not None)


def serving(reports: Iterable[ProcessReport], own: str) -> list[ProcessReport]:
    """Return the processes that a change concerns: those that serve, and the one that was asked.

    One that starts loads the wish before it serves.
    """
    return [each for each in reports if each.phase is ProcessPhase.SERVING or each.process == own]


def outcome_of(
    revision: int, reports: Iterable[ProcessReport], ref: ModelRef | None = None
) -> FleetOutcome:
    """Return how far these processes are with a change of `revision`, which has `ref` loaded."""
    return FleetOutcome(revision, tuple(_progress(revision, each, ref) for each in reports))


def _progress(revision: int, report: ProcessReport, ref: ModelRef | None) -> ProcessProgress:
    if report.revision < revision:
        why = f"it has not reached revision {revision} yet"
        return ProcessProgress(report.process, report.revision, False, why)
    failure = None if ref is None else report.failed.get(str(ref))
    return ProcessProgress(report.process, report.revision, True, failure)


def why_not_ready(
    reports: Iterable[ProcessReport], ref: ModelRef, load_revision: int, digest: str | None
) -> FleetOutcome:
    """Return which of these processes have a version ready that the wish has them load.

    One that has loaded it and then evicted it loads it again for a request, and counts as ready.
    """
    found = []
    for report in reports:
        why = report.lacks(str(ref), digest)
        is_loaded = report.revision >= load_revision
        if str(ref) not in report.ready and str(ref) not in report.failed and is_loaded:
            why = None
        found.append(ProcessProgress(report.process, report.revision, is_loaded, why))
    return FleetOutcome(load_revision, tuple(found))
