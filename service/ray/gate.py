"""The gate of a replica: requests that have come through HAProxy, and no others."""

import contextlib
import hmac
import ipaddress
from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import body_for
from service.ray.ingress import INGRESS_HEADER
from service.settings import Network

_HEADER, _FORWARDED = INGRESS_HEADER.encode(), b"x-forwarded-for"
REFUSAL = (
    "this request has not come through the fleet's HAProxy, where the limits of requests are; "
    "send it to the port of the fleet's file"
)


class IngressGate:
    """An ASGI app that passes on what HAProxy has sent.

    Ray has a proxy in Python, which is at the most half as fast, and each replica's port is open
    to who reaches its machine. Neither has the limits of heads that HAProxy has.
    """

    def __init__(
        self, app: ASGIApp, token: str, process: str, trusted: Sequence[Network] = ()
    ) -> None:
        """`token` is what HAProxy adds to each request; `process` is told in each reply.

        `trusted` are the proxies before HAProxy, which say who their clients are.
        """
        self._app, self._token, self._trusted = app, token.encode(), trusted
        self._process = (b"x-carousel-process", process.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it with 403."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = [value for name, value in scope["headers"] if name == _HEADER]
        if len(given) != 1 or not hmac.compare_digest(given[0], self._token):
            await _refuse(scope["path"], send)
            return
        names = [value for name, value in scope["headers"] if name == _FORWARDED]
        scope["client"] = (self._client(b",".join(names).decode("latin-1")), 0)
        scope["headers"] = [pair for pair in scope["headers"] if pair[0] != _HEADER]

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), self._process]
            await send(message)

        await self._app(scope, receive, send_named)

    def _client(self, forwarded: str) -> str:
        """Return the address of a client: of the list the last one that is no trusted proxy's."""
        addresses = [one.strip() for one in forwarded.split(",")]
        while len(addresses) > 1 and self._is_trusted(addresses[-1]):
            addresses.pop()
        return addresses[-1]

    def _is_trusted(self, address: str) -> bool:
        with contextlib.suppress(ValueError):
            found = ipaddress.ip_address(address)
            return any(found in network for network in self._trusted)
        return False


async def _refuse(path: str, send: Send) -> None:
    body = body_for(path, 403, REFUSAL, "forbidden")
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})
