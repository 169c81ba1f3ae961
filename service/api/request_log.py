"""The middleware that sets each request's id and tells what it was, and the record of it."""

import logging
import random
import re
import time
from collections.abc import Callable, Sequence

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.caller import ANONYMOUS
from service.api.ended_request import MADE, EndedRequest
from service.api.errors import internal_error
from service.api.exchange import EXCHANGE, HEADER, Exchange
from service.api.request_stats import BEGAN, KEY, STEERED, RequestStats
from service.api.route_templates import RouteTemplates
from service.api.tracing import Tracer

_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

_log = logging.getLogger("carousel.requests")


class RequestLog:
    """Middleware that sets the request id of each reply, and tells `on_end` what a request was.

    What it tells has no prompt and no generated text. For an error reply it has the `error_type`
    and, as `reason`, the message without its quotations of the request. An exception without a
    handler becomes a 500 without details; the log has its traceback, with the request id.
    """

    def __init__(
        self, app: ASGIApp, on_end: Sequence[Callable[[EndedRequest], None]], tracer: Tracer
    ) -> None:
        self._app, self._on_end, self._tracer = app, on_end, tracer
        self._templates = RouteTemplates()
        self._random = random.Random()  # noqa: S311 (an id is no secret; each asks no system call)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s, state = time.perf_counter(), scope.setdefault("state", {})
        exchange = Exchange(self._id_of(scope), send)
        state[BEGAN], state[EXCHANGE] = began_s, exchange
        span = self._tracer.begin(scope)
        try:
            await self._app(scope, receive, exchange.send)
        except ClientDisconnect:  # while it sends its body: no reply can be sent
            exchange.status = exchange.status or 499  # only the record has it
        except Exception:
            extra = {"request_id": exchange.request_id}
            _log.exception("unexpected exception", extra=extra)
            if exchange.status:  # it has begun: a closed connection shows that it is not whole
                raise
            await internal_error(scope["path"])(scope, receive, exchange.send)
        finally:
            template = self._templates.of(scope)
            if (why := state.get("key_refusal")) is not None:
                exchange.refusal["key_refusal"] = why  # the reply does not say it
            ended = EndedRequest(
                request_id=exchange.request_id,
                method=scope["method"],
                route=template,
                path=self._templates.shown_path(scope["path"], template),
                status=exchange.status or 499,  # the client left before a reply
                duration_s=time.perf_counter() - began_s,
                is_streamed=exchange.is_streamed,
                refusal=exchange.refusal,
                stats=state.get(KEY),
                steered=state.get(STEERED, 0),
                caller=state.get("caller", ANONYMOUS),
                trace_id=span.trace_id,
                target=state.get(MADE) or _target(scope, template),
                address=(scope.get("client") or ("",))[0],
            )
            for tell in self._on_end:
                tell(ended)
            span.end(ended)

    def _id_of(self, scope: Scope) -> str:
        """Return the id that the client has given, if it can do no harm; else a new one."""
        for name, value in scope["headers"]:
            if name == HEADER:
                given = value.decode("latin-1")
                if _ID.fullmatch(given):
                    return str(given)
                break
        return f"{self._random.getrandbits(128):032x}"


class _RequestRecord(logging.LogRecord):
    """The log record of one request, whose line in the code nobody asks for."""

    def __init__(self, level: int, fields: dict[str, object]) -> None:
        now_s = time.time()
        self.__dict__ = _RECORD | fields
        self.created, self.msecs = now_s, 1e3 * (now_s % 1.0)
        self.levelno, self.levelname = level, logging.getLevelName(level)


_RECORD = vars(logging.LogRecord(_log.name, logging.INFO, "", 0, "request", None, None))


class RequestRecords:
    """Writes one log record for each request."""

    def __init__(self, tag_of_owner: Callable[[str], str]) -> None:
        """`tag_of_owner` shortens an owner to a tag that only this server's secret makes."""
        self._tag_of_owner = tag_of_owner

    def ended(self, request: EndedRequest) -> None:
        """Write the record: an error for a 5xx, a debug record for a probe, else information."""
        level = logging.ERROR if request.status >= 500 else logging.INFO
        level = logging.DEBUG if request.is_probe else level
        if _log.isEnabledFor(level):  # the two halves of `Logger.log`, without its checks
            _log.handle(_RequestRecord(level, self.fields(request)))

    def fields(self, request: EndedRequest) -> dict[str, object]:
        """Return what the record has besides its time and level."""
        fields: dict[str, object] = {
            "request_id": request.request_id,
            "method": request.method,
            "route": request.route,
            "path": request.path,
            "status": request.status,
            "duration_ms": round(1e3 * request.duration_s, 1),
        }
        if request.stats is not None:
            fields |= _generation_fields(request.stats) | {"finish": request.finish}
        if request.steered:
            fields["steered"] = request.steered
        if request.caller.key_id is not None:
            fields["key"] = request.caller.key_id
        if request.caller.owner:
            fields["owner"] = self._tag_of_owner(request.caller.owner)
        if request.trace_id:
            fields["trace_id"] = request.trace_id
        if request.error_type:
            fields["error_type"] = request.error_type
        return fields | request.refusal


def _target(scope: Scope, template: str) -> str:
    """Return the parameters of a path: the model, alias, key, corpus or job that it names."""
    if template.startswith("/sessions"):
        return ""
    return "/".join(map(str, scope.get("path_params", {}).values()))


def _generation_fields(stats: RequestStats) -> dict[str, object]:
    fields: dict[str, object] = {
        "model": stats.model,
        "prompt_tokens": stats.prompt_tokens,
        "generated_tokens": stats.generated_tokens,
    }
    for name, span_s in (("queue_ms", stats.queue_s), ("first_token_ms", stats.first_token_s)):
        if span_s is not None:
            fields[name] = round(1e3 * span_s, 1)
    return fields
