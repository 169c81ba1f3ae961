"""What a process tells the others: the revision it has reached, its models, and what failed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Self


class ProcessPhase(StrEnum):
    """What a process does with requests."""

    STARTING = "starting"  # it loads the wish first
    SERVING = "serving"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class ProcessReport:
    """One process, as it is now."""

    process: str  # its name, unique in its store
    phase: ProcessPhase = ProcessPhase.STARTING
    revision: int = 0  # every wish up to it is carried out, or has failed
    ready: Mapping[str, str] = field(default_factory=dict)  # digests of the loaded versions
    failed: Mapping[str, str] = field(default_factory=dict)  # why, by version
    host: str = ""
    pid: int = 0

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return a report as `to_json` wrote it. Raises ValueError, KeyError, TypeError."""
        known = {each.name for each in fields(cls)}  # a later version may write more
        values = {name: value for name, value in json.loads(text).items() if name in known}
        return cls(**{**values, "phase": ProcessPhase(values["phase"])})

    def to_json(self) -> str:
        """Return it for the store, the same text for the same report."""
        values = {
            "process": self.process,
            "phase": self.phase,
            "revision": self.revision,
            "ready": dict(self.ready),
            "failed": dict(self.failed),
            "host": self.host,
            "pid": self.pid,
        }
        return json.dumps(values, separators=(",", ":"), sort_keys=True)

    def lacks(self, ref: str, digest: str | None = None) -> str | None:
        """Return why a version is not ready in this process; None if it is.

        With a `digest` it has to be the same version, not another of its name.
        """
        if ref in self.failed:
            return self.failed[ref]
        if ref not in self.ready:
            return f"it has not loaded {ref} yet"
        if digest is not None and self.ready[ref] != digest:
            return f"its {ref} is another model, of the digest {self.ready[ref]}"
        return None
