"""The number of files that this process may open: raised to what the system allows it."""

import contextlib
import resource

MAX_OPEN_FILES = 1_048_576  # where the system sets no limit
_OTHERS, _SHARE_OF_OTHERS = 256, 0.5  # the store, models, imports, workers: no clients


def raise_open_file_limit() -> int:
    """Raise the soft limit of open files to the hard one, and return the limit that holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft == resource.RLIM_INFINITY:
        return MAX_OPEN_FILES
    if soft < target:
        with contextlib.suppress(ValueError, OSError):  # macOS has a lower limit of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
            return target
    return soft


def connections_within(open_files: int) -> int:
    """Return how many connections leave enough of `open_files` for everything else."""
    return max(1, open_files - min(_OTHERS, int(open_files * _SHARE_OF_OTHERS)))
