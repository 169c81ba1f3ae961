"""The admin routes of a running server, as the terminal calls them."""

import json
import os
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from service.errors import CarouselError, Validation

DEFAULT_URL = "http://127.0.0.1:8000"
_TIMEOUT_S = 600.0  # of a load; an unload waits for the running requests


class NoServer(CarouselError, code="no_server"):
    """No server answers at the URL."""


class AdminClient:
    """Calls the admin routes of one server, directly, without a proxy. Blocks."""

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

    def call(self, method: str, *path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the reply of /admin/… to a request.

        Raises NoServer if none answers, and Validation with the server's message if it refuses.
        """
        url = "/".join([self.url, "admin", *(quote(part, safe="@") for part in path)])
        content = None if body is None else json.dumps(body).encode()
        request = Request(url, content, self._headers, method=method)  # noqa: S310
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as reply:
                return self._read(reply.read())
        except HTTPError as error:
            message = self._read(error.read()).get("error")
            raise Validation(f"the server at {self.url} refuses: {message}") from error
        except (OSError, HTTPException) as error:
            reason = error.reason if isinstance(error, URLError) else error
            raise NoServer(f"no server answers at {self.url} ({reason})") from error

    def _read(self, content: bytes) -> dict[str, Any]:
        try:
            value = json.loads(content)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise Validation(f"what answers at {self.url} is not Carousel; give --url")
        return value
