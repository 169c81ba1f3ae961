"""The middleware that writes one log record for each request and sets its request id."""

import contextlib
import json
import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import internal_error

HEADER = "X-Request-Id"

# A session id gives access to its session, so a record has only its first six characters.
_SESSION = re.compile(r"^(/sessions/[^/]{6})[^/]+")

# Parts of an error message that quote the request: a text, a name, a session id, an unknown field,
# a route. A message that was cut has no closing quote. `field` is one of ours, no quotation.
_QUOTED = re.compile(
    r"""
    (?<!\w)'(?:[^'\\]|\\.)*(?:'|\Z) | (?<!\w)"(?:[^"\\]|\\.)*(?:"|\Z)
    | `(?P<field>[\w.]+)`(?!\ is\ not\ a\ known\ field) | `[^`]*(?:`|\Z)
    | \(U\+\w+\) | (?<=there\ is\ no\ )[A-Z]+\ /.* | (?<=Given:\ ).*
    """,
    re.DOTALL | re.VERBOSE,
)
_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

_log = logging.getLogger("carousel.requests")


class RequestLog:
    """Middleware that sets the request id of each reply and writes a record of the request.

    The record has no prompt and no generated text. For an error reply it has the `error_type` and,
    as `reason`, the message without its quotations of the request. An exception without a handler
    becomes a 500 without details; the log has its traceback, with the request id.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        began_s, status = time.perf_counter(), 0
        refusal: dict[str, str] = {}

        async def tagged(message: Message) -> None:
            nonlocal status, refusal
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request_id
            elif status >= 400 and not refusal:
                refusal = _refusal_of(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, tagged)
        except ClientDisconnect:  # while it sends its body: no reply can be sent
            status = status or 499  # only the record has it
        except Exception:
            _log.exception("unexpected exception", extra={"request_id": request_id})
            if status:  # the reply has begun: a closed connection shows that it is not whole
                raise
            await internal_error(scope["path"])(scope, receive, tagged)
        finally:
            record = {
                "request_id": request_id,
                "method": scope["method"],
                "path": _SESSION.sub(r"\1…", scope["path"]),
                "status": status,
                "duration_ms": round(1e3 * (time.perf_counter() - began_s), 1),
            }
            if (why := scope.get("state", {}).get("key_refusal")) is not None:
                refusal["key_refusal"] = why  # the reply does not say it
            _log.info("request", extra=record | refusal)


def _refusal_of(body: bytes) -> dict[str, str]:
    """Return the record's fields for the body of an error reply, in either shape."""
    found: dict[str, str] = {}
    with contextlib.suppress(ValueError, KeyError, TypeError):
        reply = json.loads(body)
        error = reply["error"]
        is_openai = isinstance(error, dict)
        found["error_type"] = error["code"] if is_openai else reply["error_type"]
        found["reason"] = _without_quotations(error["message"] if is_openai else error)
    return found


def _without_quotations(message: str) -> str:
    return _QUOTED.sub(lambda quoted: quoted[0] if quoted["field"] else "…", message)
