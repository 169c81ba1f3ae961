"""The drain before a stop: what is still accepted, what is waited for, and how the rest is told."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.errors import error_event, refusal
from service.api.exchange import RawHeaders, exchange_of
from service.errors import Draining

_STOPPING = "the server is stopping and accepts no new requests; try another one"
_CUT = "the server stopped before the request was complete; send it again, to another one"

DRAIN_PATH = "/admin/drain"
_PROBES = {
    *("/", "/ping", "/health", "/health/live", "/health/ready", "/v2/health/live"),
    *("/v2/health/ready", "/info", "/metrics"),
}
_EXEMPT = {*_PROBES, DRAIN_PATH}
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class DrainConfig:
    """Times of a drain."""

    drain_s: float = 25.0  # for requests that run
    lame_duck_s: float = 0.0  # not ready, and still accepting: until balancers have noticed
    flush_s: float = 1.0  # for the ends of what is cut to be sent


class DrainPhase(StrEnum):
    """What a server does with new requests."""

    SERVING = "serving"
    LAME_DUCK = "lame_duck"  # accepts them, and is not ready
    DRAINING = "draining"  # refuses them


@dataclass(slots=True, eq=False)
class RunningRequest:
    """A request that a stop waits for, or cuts."""

    task: asyncio.Task[object]
    is_endless: bool  # the events of a train job: another server continues them
    is_cut: bool = False


class Drain:
    """The drain of one server. Not thread-safe: one event loop only."""

    def __init__(self, config: DrainConfig, streams: Callable[[], int] = lambda: 0) -> None:
        """`streams` counts generations, those whose client has gone included."""
        self.config, self._streams = config, streams
        self.phase = DrainPhase.SERVING
        self._requests: set[RunningRequest] = set()
        self._begun: asyncio.Task[None] | None = None
        self._hurry, self._idle = asyncio.Event(), asyncio.Event()
        self._idle.set()

    @property
    def running(self) -> int:
        """How many requests and generations without a request a stop would wait for."""
        return max(len(self._requests), self._streams())

    @property
    def is_serving(self) -> bool:
        """Whether the drain has not begun."""
        return self.phase is DrainPhase.SERVING

    @property
    def is_draining(self) -> bool:
        """Whether new requests are refused."""
        return self.phase is DrainPhase.DRAINING

    def enter(self, request: RunningRequest) -> None:
        """Count a request until `leave`."""
        self._requests.add(request)
        self._idle.clear()

    def leave(self, request: RunningRequest) -> None:
        """Count a request no longer."""
        self._requests.discard(request)
        if not self._requests:
            self._idle.set()

    def begin(self) -> "asyncio.Task[None]":
        """Begin the drain, once; the task ends when new requests are refused."""
        if self._begun is None:
            self._begun = asyncio.create_task(self._begin())
        return self._begun

    def hurry(self) -> None:
        """Wait for nothing any longer."""
        self._hurry.set()

    async def wait(self) -> None:
        """Wait until nothing runs, for `drain_s` at most."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self.config.drain_s
        while self.running and loop.time() < until_s and not self._hurry.is_set():
            await self._pause(_POLL_S)

    async def cut(self) -> None:
        """End every request that still runs with `draining`."""
        await self._flush()
        for request in list(self._requests):
            _cut(request)
        await self._flush()

    async def _begin(self) -> None:
        self.phase = DrainPhase.LAME_DUCK
        await self._pause(self.config.lame_duck_s)
        self.phase = DrainPhase.DRAINING
        for request in list(self._requests):
            if request.is_endless:
                _cut(request)

    async def _flush(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), self.config.flush_s)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), seconds)


def _cut(request: RunningRequest) -> None:
    if not request.is_cut:
        request.is_cut = True
        request.task.cancel()


class DrainGate:
    """What a drain does to requests: it counts them, and refuses new ones while the server drains.

    Then each reply closes its connection. Reading and cancelling are still possible. A request
    that is cut gets the error `draining`: as its reply, or as the last event of its stream.
    """

    def __init__(self, drain: Drain) -> None:
        self._drain = drain

    def add_headers(self, headers: RawHeaders) -> None:
        """Close the connection of a reply while the server drains."""
        if self._drain.is_draining:
            headers[:] = [one for one in headers if one[0] != b"connection"]
            headers.append((b"connection", b"close"))

    def run(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request by `app`, unless it is refused."""
        path = scope["path"]
        if path in _EXEMPT and not (path == "/" and scope["method"] == "POST"):
            return app(scope, receive, send)
        if self._drain.is_draining and _is_new_work(scope["method"], path):
            return refusal(path, Draining(_STOPPING))(scope, receive, send)
        return self._run(app, scope, receive, send)

    async def _run(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        task, path, exchange = asyncio.current_task(), scope["path"], exchange_of(scope)
        assert task is not None
        is_endless = path.startswith("/train-jobs/") and path.endswith("/events")
        request = RunningRequest(task, is_endless)
        self._drain.enter(request)
        try:
            await app(scope, receive, send)
        except asyncio.CancelledError:
            has_begun = exchange.status > 0
            if not request.is_cut or exchange.is_over or (has_begun and not exchange.is_streamed):
                raise
            task.uncancel()
            if has_begun:
                end = error_event(Draining(_CUT), path)
                await send({"type": "http.response.body", "body": end, "more_body": False})
            else:
                await refusal(path, Draining(_CUT))(scope, receive, send)
        finally:
            self._drain.leave(request)


def _is_new_work(method: str, path: str) -> bool:
    if method in {"GET", "HEAD"}:
        return path.endswith("/events")
    return not path.endswith("/cancel")
