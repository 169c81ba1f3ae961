"""A request with its reply: what the parts of the request pipeline know and add of it."""

import contextlib
import json
import re
from collections.abc import Awaitable, Callable
from typing import cast

from starlette.types import Message, Scope, Send

EXCHANGE = "exchange"  # in the request's state
HEADER = b"x-request-id"

RawHeaders = list[tuple[bytes, bytes]]  # the names in lower case, as ASGI has them

_STREAM = b"text/event-stream"

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


class Exchange:
    """One request with its reply. Belongs to the event loop.

    `send` passes the reply on with the headers that `on_start` adds, and notes what it is: so all
    parts of the pipeline together cost one call for each message.
    """

    __slots__ = ("_send", "is_over", "is_streamed", "on_start", "refusal", "request_id", "status")

    def __init__(self, request_id: str, send: Send) -> None:
        self.request_id, self._send = request_id, send
        self.status = 0  # until the reply has begun
        self.is_streamed = self.is_over = False
        self.refusal: dict[str, str] = {}  # of an error reply: its `error_type` and `reason`
        self.on_start: list[Callable[[RawHeaders], None]] = []

    def send(self, message: Message) -> Awaitable[None]:
        """Send a message of the reply."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers: RawHeaders = [*message.get("headers", ()), (HEADER, self.request_id.encode())]
            for name, value in headers:
                if name == b"content-type":
                    self.is_streamed = value.startswith(_STREAM)
            for add_headers in self.on_start:
                add_headers(headers)
            message["headers"] = headers
        else:
            self.is_over = not message.get("more_body", False)
            if self.status >= 400 and not self.refusal:
                self.refusal = refusal_of(message.get("body", b""))
        return self._send(message)


def exchange_of(scope: Scope) -> Exchange:
    """Return a request's exchange. Raises KeyError outside the pipeline."""
    return cast("Exchange", scope["state"][EXCHANGE])


def refusal_of(body: bytes) -> dict[str, str]:
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
