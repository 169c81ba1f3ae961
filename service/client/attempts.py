"""When a call is tried again, and when no more."""

import random
import time
from collections.abc import Callable

import httpx2

from service.client.calls import Request
from service.client.errors import CarouselError, Refused, Unreachable

CONNECT_S = 10.0
FIRST_WAIT_S, LONGEST_WAIT_S = 0.05, 2.0

_NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)


class Attempts:
    """The attempts of one call, or of one stretch of a stream in which nothing has come.

    Tried again are requests that never arrived, refusals that pass, and lost replies of requests
    that may be repeated; with jitter, until `limit_s` is over. Everything else is final.
    """

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_s, self._clock = limit_s, clock
        self.restart()

    def restart(self) -> None:
        """Something has come: the time begins again."""
        self._end_s, self._failures = self._clock() + self._limit_s, 0
        self._may_be_done = False

    @property
    def left_s(self) -> float:
        """How long the call may go on."""
        return max(0.001, self._end_s - self._clock())

    def timeout(self, silence_s: float | None = None) -> httpx2.Timeout:
        """What one attempt may take; `silence_s` bounds how long a stream may say nothing."""
        left_s = self.left_s
        read_s = left_s if silence_s is None else min(silence_s, left_s)
        return httpx2.Timeout(left_s, connect=min(CONNECT_S, left_s), read=read_s)

    def after_loss(self, request: Request, loss: Exception) -> float:
        """How long to wait after a connection that failed. Raises Unreachable."""
        reason = str(loss) or type(loss).__name__
        if not isinstance(loss, _NEVER_SENT):
            self._may_be_done = True
            if not request.is_repeatable:
                raise Unreachable(
                    f"the connection was lost ({reason}); whether the server did what was asked "
                    "is not known"
                ) from loss
        return self._wait_s(Unreachable(f"no reply within {self._limit_s:g} s: {reason}"), None)

    def after_refusal(self, request: Request, refusal: Refused) -> float:
        """How long to wait after a refusal. Raises it where it does not pass."""
        # The store may have gone after it had done what was asked, before it could say so.
        is_open = refusal.error_type == "store_unavailable"
        if not refusal.is_passing or (is_open and not request.is_repeatable):
            raise refusal
        return self._wait_s(refusal, refusal.retry_after_s)

    def was_done_before(self, request: Request, status: int) -> bool:
        """Whether what a DELETE does not find any more is gone by an earlier attempt of it."""
        return self._may_be_done and request.method == "DELETE" and status in {404, 410}

    def _wait_s(self, error: CarouselError, asked_s: float | None) -> float:
        if asked_s is None:
            asked_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(self._failures, 20))
        self._failures += 1
        wait_s = asked_s * random.uniform(1.0, 1.5)  # noqa: S311 (to part clients, not to hide)
        if self._clock() + wait_s >= self._end_s:
            raise error
        return wait_s
