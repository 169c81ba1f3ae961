"""What this process may use of the machine: cores and memory, by affinity and control groups."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MEMBERSHIP = Path("/proc/self/cgroup")
ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class CgroupLimits:
    """The limits that a container sets on a process. None: there is none."""

    cpus: float | None = None  # cores' worth of time: quota / period
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class MachineShare:
    """The machine's cores and memory, and the part of them that this process may use."""

    machine_cores: int
    affinity_cores: int  # on which the scheduler may run the process
    machine_memory_bytes: int
    limits: CgroupLimits

    @property
    def cores(self) -> int:
        """How many threads can run at a time without a wait for a core or for the quota."""
        quota = self.affinity_cores if self.limits.cpus is None else math.floor(self.limits.cpus)
        return max(1, min(self.affinity_cores, quota))

    @property
    def memory_bytes(self) -> int:
        """The container's limit of memory, or the machine's memory."""
        limit = self.limits.memory_bytes
        return self.machine_memory_bytes if limit is None else min(self.machine_memory_bytes, limit)

    @property
    def has_own_cores(self) -> bool:
        """Whether the process has the whole machine: a thread that spins takes no one's core."""
        return self.limits.cpus is None and self.affinity_cores == self.machine_cores


def machine_share() -> MachineShare:
    """Read what this process may use of this machine."""
    cores = os.cpu_count() or 1
    has_affinity = hasattr(os, "sched_getaffinity")  # not on macOS
    return MachineShare(
        cores,
        len(os.sched_getaffinity(0)) if has_affinity else cores,
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        read_limits(),
    )


def read_limits(membership: Path = MEMBERSHIP, root: Path = ROOT) -> CgroupLimits:
    """Return the tightest limits of the process's control group and those above it.

    `membership` is the process's list of its groups, `root` is where they are mounted, of version
    2 or 1. What cannot be read sets no limit.
    """
    groups = _groups(_text(membership) or "")
    cpus, memory = [], []
    for folder in _upward(root, groups.get("")):
        cpus.append(_cpus_of(_text(folder / "cpu.max")))
        memory.append(_bytes_of(_text(folder / "memory.max")))
    for folder in _upward(root / "cpu", groups.get("cpu")):
        quota, period = (_text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        cpus.append(_cpus_of(f"{quota} {period}"))
    folders = _upward(root / "memory", groups.get("memory"))
    memory += [_bytes_of(_text(folder / "memory.limit_in_bytes")) for folder in folders]
    return CgroupLimits(
        min((each for each in cpus if each is not None), default=None),
        min((each for each in memory if each is not None), default=None),
    )


def _groups(membership: str) -> dict[str, str]:
    """Return the process's group by controller, from lines `id:controllers:path`; "" is v2's."""
    groups = {}
    for line in membership.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            groups[controller] = path
    return groups


def _upward(root: Path, group: str | None) -> Iterator[Path]:
    """Yield a group's folder and those above it; in a container only `root` may be visible."""
    names = Path(group or "/").parts[1:]
    for n in range(len(names), -1, -1):
        yield root.joinpath(*names[:n])


def _cpus_of(text: str | None) -> float | None:
    """Return cores from `quota period` in microseconds; `max` and -1 are no quota."""
    quota, _, period = (text or "").strip().partition(" ")
    if not (quota.isdecimal() and period.isdecimal() and int(period)):
        return None
    return int(quota) / int(period)


def _bytes_of(text: str | None) -> int | None:
    text = (text or "").strip()
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
