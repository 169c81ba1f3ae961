"""What the metrics get of each request that has ended."""

from service.api.ended_request import EndedRequest
from service.api.errors import STATUSES
from service.api.request_stats import RequestStats
from service.errors import PositionMismatch, SessionBusy
from service.metrics import families
from service.metrics.metrics import Metrics

_CONFLICTS = {SessionBusy.code, PositionMismatch.code}
_AUTH_FAILURES = {401, 403, 421}
_CODES = {error.code for error in STATUSES} | {"", "internal", "healthcheck"}


class RequestMetrics:
    """Counts requests. Not thread-safe: one event loop only."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def ended(self, request: EndedRequest) -> None:
        """Count a request. Every label's value is of a closed set, none is the client's text."""
        metrics, error_type = self._metrics, _known(request.error_type)
        labels = (request.route, request.model, str(request.status), error_type)
        metrics.inc(families.REQUESTS, labels)
        streamed = "yes" if request.is_streamed else "no"
        metrics.histogram(families.REQUEST_DURATION, (request.route, streamed)).observe(
            request.duration_s
        )
        if error_type in _CONFLICTS:
            metrics.inc(families.SESSION_CONFLICTS, (error_type,))
        elif request.status in _AUTH_FAILURES:
            metrics.inc(families.AUTH_FAILURES, (error_type,))
        elif request.status == 429:
            metrics.inc(families.RATE_LIMITED, (error_type,))
        if request.stats is not None and not request.stats.is_replay:
            self._generated(request.stats, request.finish)

    def _generated(self, stats: RequestStats, finish: str) -> None:
        metrics, model = self._metrics, (stats.model,)
        metrics.inc(families.FINISHED, (stats.model, finish))
        for family, labels, value in (
            (families.QUEUE, model, stats.queue_s),
            (families.FIRST_TOKEN, (stats.model, stats.session), stats.first_token_s),
            (families.TIME_PER_TOKEN, model, stats.token_s),
        ):
            if value is not None:
                metrics.histogram(family, labels).observe(value)


def _known(error_type: str) -> str:
    return error_type if error_type in _CODES else families.OTHER
