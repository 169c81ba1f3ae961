"""The bond of a child process to its parent: it ends with it, however that ends."""

import ctypes
import os
import signal
import sys
import threading
import time

POLL_S = 0.5
_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    """Kill this process when the process `parent` has ended.

    On Linux at once: the kernel does so when the thread that has started this process ends, so it
    has to be a thread that lives as long as the parent. Elsewhere within POLL_S.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    watch_parent(parent)  # it may have ended before the call


def watch_parent(parent: int) -> None:
    """Kill this process, from a thread of its own, within POLL_S of the end of `parent`."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
