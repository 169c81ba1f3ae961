"""Decide whether an operation is attempted again, and after which delay."""

import random
import ssl
import time
from collections.abc import Callable

import httpx2

from carousel_client.errors import CarouselClientError, StatusError, Unreachable
from carousel_client.request import Request

DEFAULT_TIMEOUT_S = 60.0
LONG_TIMEOUT_S = 600.0  # of operations that may take minutes, at least, where a call has none
CONNECT_TIMEOUT_S = 10.0
FIRST_DELAY_S, MAX_DELAY_S = 0.05, 2.0
STREAM_SILENCE_S = 35.0
"""The server pings a silent stream every 15 s: without two pings in a row it is broken."""

_NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)


def _is_distrust(error: BaseException | None) -> bool:
    """Whether a connection failed because of the server's certificate: it will fail again."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


class RetryPolicy:
    """The attempts of one operation, or of a stream since its last event; it does no I/O.

    Attempted again are requests that were not sent, transient error responses, and requests that
    may be repeated and whose response was lost: with jitter, until `timeout_s` is over. Every other
    error is final, and so is a certificate that is not trusted.
    """

    def __init__(self, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout_s, self._clock = timeout_s, clock
        self.reset()

    def reset(self) -> None:
        """Start the time limit again, after progress."""
        self._deadline_s, self._failures = self._clock() + self._timeout_s, 0
        self._may_have_succeeded = False

    @property
    def remaining_s(self) -> float:
        """The time until the deadline, at least a millisecond."""
        return max(0.001, self._deadline_s - self._clock())

    def timeout(self, silence_s: float | None = None) -> httpx2.Timeout:
        """Return the limits of one attempt; `silence_s` bounds the pauses within a stream."""
        remaining_s = self.remaining_s
        read_s = remaining_s if silence_s is None else min(silence_s, remaining_s)
        connect_s = min(CONNECT_TIMEOUT_S, remaining_s)
        return httpx2.Timeout(remaining_s, connect=connect_s, read=read_s)

    def delay_after_disconnect(self, request: Request, error: Exception) -> float:
        """Return the seconds to wait after a failed connection. Raises Unreachable."""
        reason = str(error) or type(error).__name__
        if _is_distrust(error):
            raise Unreachable(
                f"the certificate of the server is not trusted ({reason}); if it is your own, name "
                "the file of who has signed it in SSL_CERT_FILE"
            ) from error
        if not isinstance(error, _NEVER_SENT):
            self._may_have_succeeded = True
            if not request.is_repeatable:
                raise Unreachable(
                    f"the connection was lost ({reason}); whether the request was carried out is "
                    "not known"
                ) from error
        return self._delay_s(Unreachable(f"no reply within {self._timeout_s:g} s: {reason}"), None)

    def delay_after_status(self, request: Request, error: StatusError) -> float:
        """Return the seconds to wait after an error response. Raises it where it is final."""
        # The server may lose its store after the store has carried out the request.
        is_ambiguous = error.error_type == "store_unavailable"
        if not error.is_transient or (is_ambiguous and not request.is_repeatable):
            raise error
        return self._delay_s(error, error.retry_after_s)

    def is_deleted(self, request: Request, status: int) -> bool:
        """Whether a DELETE finds nothing because an earlier attempt of it has succeeded."""
        return self._may_have_succeeded and request.method == "DELETE" and status in {404, 410}

    def _delay_s(self, error: CarouselClientError, retry_after_s: float | None) -> float:
        base_s = retry_after_s
        if base_s is None:
            base_s = min(MAX_DELAY_S, FIRST_DELAY_S * 2.0 ** min(self._failures, 20))
        self._failures += 1
        delay_s = base_s * random.uniform(1.0, 1.5)  # noqa: S311 (jitter, not a secret)
        if self._clock() + delay_s >= self._deadline_s:
            raise error
        return delay_s
