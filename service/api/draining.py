"""The drain before a stop: what is still accepted, what is waited for, and how the rest is told."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import error_event, refusal
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
    """Middleware that counts requests, and refuses new ones while the server drains.

    Then each reply closes its connection. Reading and cancelling are still possible. A request
    that is cut gets the error `draining`: as its reply, or as the last event of its stream.
    """

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app, self._drain = app, drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] in _EXEMPT and not (scope["path"] == "/" and scope["method"] == "POST"):
            await self._app(scope, receive, self._closing(send))
        elif self._drain.is_draining and _is_new_work(scope["method"], scope["path"]):
            reply = refusal(scope["path"], Draining(_STOPPING))
            await reply(scope, receive, self._closing(send))
        else:
            await self._run(scope, receive, self._closing(send))

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None
        path = scope["path"]
        is_endless = path.startswith("/train-jobs/") and path.endswith("/events")
        request = RunningRequest(task, is_endless)
        has_begun, is_stream, is_over = False, False, False

        async def noted(message: Message) -> None:
            nonlocal has_begun, is_stream, is_over
            if message["type"] == "http.response.start":
                kind = MutableHeaders(scope=message).get("content-type", "")
                has_begun, is_stream = True, kind.startswith("text/event-stream")
            else:
                is_over = not message.get("more_body", False)
            await send(message)

        self._drain.enter(request)
        try:
            await self._app(scope, receive, noted)
        except asyncio.CancelledError:
            if not request.is_cut or is_over or (has_begun and not is_stream):
                raise
            task.uncancel()
            if has_begun:
                end = error_event(Draining(_CUT), path)
                await send({"type": "http.response.body", "body": end, "more_body": False})
            else:
                await refusal(path, Draining(_CUT))(scope, receive, send)
        finally:
            self._drain.leave(request)

    def _closing(self, send: Send) -> Send:
        async def closing(message: Message) -> None:
            if self._drain.is_draining and message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        return closing


def _is_new_work(method: str, path: str) -> bool:
    if method in {"GET", "HEAD"}:
        return path.endswith("/events")
    return not path.endswith("/cancel")
