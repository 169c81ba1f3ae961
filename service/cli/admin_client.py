"""The routes of a running server, as the terminal calls them."""

import contextlib
import json
import os
import ssl
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from service.errors import CarouselError, Validation

Json = Mapping[str, Any]
DEFAULT_URL = "http://127.0.0.1:8000"
_TIMEOUT_S = 600.0  # of a load; an unload waits for the running requests


class NoServer(CarouselError, code="no_server"):
    """No server answers at the URL."""


class AdminClient:
    """Calls the routes of one server, directly, without a proxy. Blocks."""

    def __init__(self, url: str) -> None:
        """It sends CAROUSEL_API_KEY. Raises Validation if `url` is not the URL of a server."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise Validation(f"{url[:200]!r} is not the URL of a server, such as {DEFAULT_URL}")
        self.url = url.rstrip("/")
        self._opener = build_opener(ProxyHandler({}))
        self._headers = {"Content-Type": "application/json"}
        if api_key := os.environ.get("CAROUSEL_API_KEY"):
            self._headers["Authorization"] = f"Bearer {api_key}"

    def models(self) -> dict[str, Any]:
        """Return the stored models and the aliases, as GET /admin/models. Raises as `call`."""
        return self.call("GET", "models")

    def call(self, method: str, *path: str, body: Json | None = None) -> dict[str, Any]:
        """Return the reply of /admin/… to a request. Raises as `send`."""
        return self.send(method, "admin", *path, body=body)

    def send(
        self,
        method: str,
        *path: str,
        body: Json | str | None = None,
        query: Mapping[str, str | int] | None = None,
    ) -> dict[str, Any]:
        """Return the reply to a request whose body is JSON or a text; {} if it has none.

        Raises NoServer if none answers, and Validation with the server's message if it refuses.
        """
        with self._opened(method, path, body, query) as reply:
            content = reply.read()
            return self._read(content) if content else {}

    def events(self, *path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the name and the data of each server-sent event. Raises as `send`."""
        with self._opened("GET", path, None, None) as reply:
            name = ""
            for line in reply:
                field, _, value = line.decode().rstrip("\n").partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    yield name, self._read(value.encode())

    @contextlib.contextmanager
    def _opened(
        self,
        method: str,
        path: Sequence[str],
        body: Json | str | None,
        query: Mapping[str, str | int] | None,
    ) -> Iterator[Any]:
        url = "/".join([self.url, *(quote(part, safe="@") for part in path)])
        if query:
            url = f"{url}?{urlencode(query)}"
        headers, content = self._headers, None
        if isinstance(body, str):
            headers, content = {**headers, "Content-Type": "text/plain"}, body.encode()
        elif body is not None:
            content = json.dumps(body).encode()
        request = Request(url, content, headers, method=method)  # noqa: S310
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as reply:
                yield reply
        except HTTPError as error:
            message = self._read(error.read()).get("error")
            if error.code == HTTPStatus.UNAUTHORIZED:
                message = f"{message}; this command sends the key that CAROUSEL_API_KEY holds"
            raise Validation(f"the server at {self.url} refuses: {message}") from error
        except (OSError, HTTPException) as error:
            reason = error.reason if isinstance(error, URLError) else error
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise NoServer(
                    f"the certificate of {self.url} is not trusted ({reason.verify_message}); if it"
                    " is your own, name the file of who has signed it in SSL_CERT_FILE"
                ) from error
            where = f"no server answers at {self.url} ({reason})"
            raise NoServer(f"{where}; start one, or name it with --url or CAROUSEL_URL") from error

    def _read(self, content: bytes) -> dict[str, Any]:
        try:
            value = json.loads(content)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise Validation(f"what answers at {self.url} is not Carousel; give --url")
        return value
