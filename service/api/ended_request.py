"""A request that has ended, as its log record, the metrics and its span show it."""

from dataclasses import dataclass, field

from service.api.caller import ANONYMOUS, Caller
from service.api.request_stats import RequestStats

MADE = "made"
"""The state of a request has what it has made under this name: the key, or the model."""

PROBES = frozenset({"/health", "/health/live", "/health/ready", "/ping", "/metrics"})


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedRequest:
    """One request with its reply. It has no prompt, no generated text and no whole session id."""

    request_id: str
    method: str
    route: str  # the template of its path, or `other`
    path: str  # shortened
    status: int  # 499: the client left before the reply
    duration_s: float
    is_streamed: bool
    refusal: dict[str, str] = field(default_factory=dict)  # `error_type`, and its `reason`
    stats: RequestStats | None = None  # of a generate request that was admitted
    steered: int = 0  # cells that it has steered: its text is not the model's own
    caller: Caller = ANONYMOUS
    trace_id: str = ""
    target: str = ""  # what it has made, or the parameters of its path, but for sessions
    address: str = ""  # of the client

    @property
    def is_probe(self) -> bool:
        """Whether a machine asks at every interval: a log of it helps nobody."""
        return self.route in PROBES

    @property
    def error_type(self) -> str:
        """The code of its error, also of one after the head of a stream; "" without one."""
        of_stream = self.stats.error_type if self.stats else ""
        return self.refusal.get("error_type", of_stream)

    @property
    def model(self) -> str:
        """The model that has generated; "" where none has."""
        return self.stats.model if self.stats else ""

    @property
    def finish(self) -> str:
        """Why the generation ended; a client that has left has cancelled it."""
        return self.stats.finish or "cancelled" if self.stats else ""
