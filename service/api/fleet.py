"""The processes of a store: the route that lists them, and how far they are with a change."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel

from service.api.state import get_state
from service.fleet.outcome import FleetOutcome
from service.fleet.report import ProcessPhase

MAX_WAIT_S = 3_600

router = APIRouter(prefix="/admin", tags=["admin"])


class ProcessState(BaseModel):
    """How far one process is with a change. `problem` is null where it has carried it out."""

    process: str
    revision: int
    problem: str | None


class ChangeReport(BaseModel):
    """A change in the processes that serve; a server whose store is its own lists none."""

    revision: int
    processes: list[ProcessState]


class ChangeReply(BaseModel):
    """The reply to a change that has no other."""

    fleet: ChangeReport


class FleetProcess(BaseModel):
    """A live process: its phase, the revision that it has reached, and its models."""

    process: str
    host: str
    pid: int
    phase: ProcessPhase
    revision: int
    ready: dict[str, str]  # digests of the loaded versions
    failed: dict[str, str]  # why, by version


class FleetState(BaseModel):
    """The models that every process is to load, the aliases, and the processes."""

    process: str  # that answers
    revision: int
    loaded: list[str]
    aliases: dict[str, str]
    processes: list[FleetProcess]


@dataclass(frozen=True, slots=True)
class ChangeWait:
    """How long a change waits for other processes; None: as configured."""

    is_waiting: bool
    limit_s: float | None

    def report(self, response: Response, outcome: FleetOutcome) -> dict[str, Any]:
        """Return the outcome for the reply, whose status is 202 unless the change is everywhere."""
        if not self.is_waiting or not outcome.is_everywhere:
            response.status_code = 202
        processes = [
            {"process": each.process, "revision": each.revision, "problem": each.problem}
            for each in outcome.processes
        ]
        return {"revision": outcome.revision, "processes": processes}


def change_wait(
    wait: Annotated[Literal["all", "none"], Query()] = "all",
    wait_s: Annotated[float | None, Query(ge=0, le=MAX_WAIT_S)] = None,
) -> ChangeWait:
    """Return how long the request wants to wait for every process to carry its change out."""
    return ChangeWait(wait == "all", 0.0 if wait == "none" else wait_s)


Waiting = Annotated[ChangeWait, Depends(change_wait)]


@router.get("/fleet", responses={200: {"model": FleetState}})
async def get_fleet(request: Request) -> dict[str, Any]:
    """List the live processes, what each has loaded, and what they are to load."""
    state = get_state(request)
    view = await state.fleet.view()
    wish = view.wish
    aliases = state.registry.aliases if wish is None else wish.aliases
    ready = {str(model.ref) for model in state.registry.loaded()}
    wanted = ready if wish is None else set(map(str, wish.record().loaded))
    return {
        "process": state.fleet.process,
        "revision": 0 if wish is None else wish.revision,
        "loaded": sorted(wanted),
        "aliases": {alias: str(ref) for alias, ref in sorted(aliases.items())},
        "processes": [
            {
                "process": report.process,
                "host": report.host,
                "pid": report.pid,
                "phase": report.phase,
                "revision": report.revision,
                "ready": dict(report.ready),
                "failed": dict(report.failed),
            }
            for report in view.reports
        ],
    }
