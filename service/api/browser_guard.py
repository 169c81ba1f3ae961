"""The check that keeps a stranger's page in a user's browser from using the server."""

import ipaddress
from collections.abc import Iterable

from starlette.types import Scope

from service.api.exchange import RawHeaders
from service.errors import BadRequest, CrossOrigin, InvalidHost

LOOPBACK_NAMES = frozenset({"localhost"})

_READING = {"GET", "HEAD"}
_FROM_THE_USER = {"same-origin", "none"}  # of this server's own page; typed, or a bookmark

_CACHE_CONTROL, _POLICY = b"cache-control", b"content-security-policy"
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
_NO_STORE = (_CACHE_CONTROL, b"no-store")
_NOTHING = (_POLICY, b"default-src 'none'; frame-ancestors 'none'")


class BrowserGuard:
    """Refuses what only a browser can be made to send.

    * A request to a name that is not this server's: a page whose name was rebound to this address.
      An address instead of a name cannot be rebound, so it passes.
    * A request other than GET and HEAD for a page of another origin, unless `origins` has it.

    Every reply says that it is not to be framed, guessed at, stored, or read by other pages.
    """

    def __init__(self, hosts: Iterable[str], origins: Iterable[str]) -> None:
        """`hosts` are names in lower case without ports; `*` is any."""
        self._hosts, self._origins = frozenset(hosts) | LOOPBACK_NAMES, frozenset(origins)
        self._known: set[bytes] = set()  # values of Host that have passed, at most a hundred

    def add_headers(self, headers: RawHeaders) -> None:
        """Add what every reply says; a route's own policy and its own caching stay."""
        names = [name for name, _ in headers]
        headers += _HEADERS
        if _CACHE_CONTROL not in names:
            headers.append(_NO_STORE)
        if _POLICY not in names:
            headers.append(_NOTHING)

    def check(self, scope: Scope) -> None:
        """Raise BadRequest, InvalidHost or CrossOrigin."""
        if not scope["path"].isprintable():  # a router may take a path for one without its end
            raise BadRequest("the path has a control character")
        hosts, origin, site = [], None, None
        for name, value in scope["headers"]:
            if name == b"host":
                hosts.append(value)
            elif name == b"origin":
                origin = value.decode("latin-1")
            elif name == b"sec-fetch-site":
                site = value.decode("latin-1")
        if len(hosts) != 1 and (hosts or scope.get("http_version") != "1.0"):
            raise BadRequest(f"the request has {len(hosts)} Host headers; it needs one")
        host = hosts[0] if hosts else b""
        if hosts and host not in self._known:
            self._check_host(host)
        if scope["method"] not in _READING and not self._is_same_origin(site, origin, host):
            raise CrossOrigin(
                "a browser sent this for a page of another origin; "
                "CAROUSEL_CORS_ORIGINS has the origins whose pages may use the server"
            )

    def _check_host(self, host: bytes) -> None:
        name = host_name(host.decode("latin-1"))
        if name is None:
            raise BadRequest("the Host header is no name or address with a port")
        if "*" not in self._hosts and name not in self._hosts and not _is_address(name):
            raise InvalidHost(
                f"the Host header names {name[:80]!r}, which is no name of this server; "
                "CAROUSEL_ALLOWED_HOSTS has its names"
            )
        if len(self._known) < 100:
            self._known.add(host)

    def _is_same_origin(self, site: str | None, origin: str | None, host: bytes) -> bool:
        """Whether this server's own page, no page, or no browser sends the request."""
        if origin is not None and origin in self._origins:
            return True
        if site is not None and site not in _FROM_THE_USER:
            return False
        if origin is None or site is not None:
            return True
        # A browser without Sec-Fetch-Site, which is left out where the connection is not private.
        return origin.lower().partition("://")[2] == host.decode("latin-1").lower()


def host_name(host: str) -> str | None:
    """Return the name or address in a Host header, in lower case, or None if there is none."""
    name, _, port = host.lower().rpartition(":") if _has_port(host) else (host.lower(), "", "")
    if port and not (port.isascii() and port.isdigit()):
        return None
    if name.startswith("["):
        return name[1:-1] if name.endswith("]") and _is_address(name[1:-1]) else None
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789.-_")
    return name.removesuffix(".") if name and set(name) <= allowed else None


def _has_port(host: str) -> bool:
    return ":" in host and not host.endswith("]")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
