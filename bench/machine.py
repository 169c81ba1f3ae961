"""What a benchmark runs on: the processor, its load, and the processor time of a server."""

import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

BUSY_SHARE, LOOK_S = 0.15, 1.0


def processor() -> str:
    """Return the processor's name, what its int8 arithmetic has, and its number of cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    name = next(names, platform.processor() or platform.machine())
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    kinds = {"avx2": "AVX2", "avx512f": "AVX-512", "avx_vnni": "VNNI", "avx512_vnni": "VNNI"}
    has = ", ".join(dict.fromkeys(kind for flag, kind in kinds.items() if flag in flags))
    return f"{name}{' with ' if has else ''}{has}; {os.cpu_count()} cores"


def machine() -> dict[str, Any]:
    """Describe the machine as it is before a benchmark; say it where it is busy with other work."""
    busy = psutil.cpu_percent(LOOK_S) / 100
    load = os.getloadavg()[0]
    if warning := busy_warning(busy, load):
        print(warning, file=sys.stderr, flush=True)
    return {
        "processor": processor(),
        "busy_before": round(busy, 2),
        "load_before": round(load, 1),
        "python": platform.python_version(),
        "onnxruntime": version("onnxruntime"),
    }


def busy_warning(busy: float, load: float) -> str | None:
    """Return what to say where other programs use the processor, else None."""
    if busy <= BUSY_SHARE:
        return None
    return (
        f"This machine is busy: {busy:.0%} of its processor time went to other programs in the "
        f"last {LOOK_S:.0f} s, the load average is {load:.1f}. Compare ratios and processor time, "
        "not rates."
    )


def caption(about: dict[str, Any]) -> str:
    """Return the machine in one line, for the head of a table."""
    busy = about["busy_before"]
    other = f", {busy:.0%} of it busy with other programs" if busy > BUSY_SHARE else ""
    return f"{about['processor']}{other}; load average before: {about['load_before']}"


def server_processes(port: int) -> list[psutil.Process]:
    """Return the processes of this machine that listen on a port, and those that they started.

    Raises ProcessLookupError where there is none that this user may see.
    """
    listening = {
        one.pid
        for one in psutil.net_connections(kind="tcp")
        if one.status == psutil.CONN_LISTEN and one.laddr.port == port and one.pid is not None
    }
    if not listening:
        raise ProcessLookupError(f"no process of this user listens on port {port}")
    found = {pid: psutil.Process(pid) for pid in listening}
    for process in tuple(found.values()):
        found |= {child.pid: child for child in process.children(recursive=True)}
    return list(found.values())


def cpu_s(processes: Sequence[psutil.Process]) -> float:
    """Return the processor time that the processes have used, in seconds."""
    return float(sum(map(_cpu_s, processes)))


def _cpu_s(process: psutil.Process) -> float:
    if sys.platform == "linux":  # the clock of a process: nanoseconds, where ps has hundredths
        return time.clock_gettime((~process.pid << 3) | 2)
    return float(sum(process.cpu_times()[:2]))  # user and system


def paired_ratio(values: Sequence[float], baselines: Sequence[float]) -> float:
    """Return the median of the ratios of measurements that took turns."""
    return statistics.median(x / y for x, y in zip(values, baselines, strict=True))


def median_limits(values: Sequence[float]) -> tuple[float, float]:
    """Return the limits of the median with 95 % confidence, whatever the values' distribution.

    They are two of the values: as many are beyond each as chance puts there (the sign test).
    """
    ordered, n = sorted(values), len(values)
    beyond = max(0, int((n - 1.96 * n**0.5) / 2))
    return ordered[beyond], ordered[n - 1 - beyond]
