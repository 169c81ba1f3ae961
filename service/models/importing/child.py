"""The process that opens foreign files: `python -m service.models.importing.child`.

An order comes in on standard input as JSON; `outcome.json` and the bundle's files go into the
folder that the order names. Limits are set before anything but the standard library is loaded.
"""

import json
import resource
import sys
from pathlib import Path

OUTCOME = "outcome.json"
_OPEN_FILES = 256
_GRACE_S = 5


def main() -> None:
    """Carry out the order on standard input. Always exits 0 once there is an outcome."""
    text = sys.stdin.read()
    limits = json.loads(text)["limits"]
    limit_process(limits["memory_bytes"], limits["cpu_s"], limits["file_bytes"])
    from service.models.importing.run_import import carry_out  # noqa: PLC0415 - after the limits

    output, outcome = carry_out(text)
    (Path(output) / OUTCOME).write_text(outcome.model_dump_json())


def limit_process(memory_bytes: int, cpu_s: int, file_bytes: int) -> None:
    """Bound this process for good; nothing here can raise a limit again."""
    limits = {
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: _OPEN_FILES,
    }
    if sys.platform != "darwin":  # which knows the limit but not how to keep it
        limits[resource.RLIMIT_AS] = memory_bytes
    for which, limit in limits.items():
        _, hard = resource.getrlimit(which)
        # At the soft limit of time the signal tells why; at the hard one it would be SIGKILL.
        ceiling = limit + _GRACE_S if which == resource.RLIMIT_CPU else limit
        if hard != resource.RLIM_INFINITY:
            ceiling = min(ceiling, hard)
        resource.setrlimit(which, (min(limit, ceiling), ceiling))


if __name__ == "__main__":
    main()
