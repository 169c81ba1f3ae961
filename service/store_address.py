"""Where the store is: the URL of one server or of a cluster, and what names of keys begin with."""

from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from service.errors import BadRequest

PREFIX = "carousel:"
CLUSTER_SCHEMES = ("redis+cluster", "rediss+cluster")
_DEFAULT_PORT = 6379
_URL_RULE = (
    "CAROUSEL_REDIS_URL is not the URL of a cluster, such as "
    "redis+cluster://10.0.0.1:6379,10.0.0.2:6379"
)


def is_cluster_url(url: str) -> bool:
    """Whether a URL is that of a cluster."""
    return url.partition("://")[0].lower() in CLUSTER_SCHEMES


def key_prefix(tag: str, *, is_cluster: bool) -> str:
    """Return what the names of keys begin with that one call uses together.

    On a cluster the braces keep them in one slot; elsewhere names are as they have always been.
    """
    return f"{PREFIX}{{{tag}}}:" if is_cluster else PREFIX


@dataclass(frozen=True, slots=True)
class ClusterAddress:
    """Where a cluster is: some of its nodes, and what each connection needs."""

    scheme: str  # of one node
    user_info: str  # with its @
    nodes: tuple[str, ...]  # host:port
    query: str

    @classmethod
    def parse(cls, url: str) -> "ClusterAddress":
        """Read a URL like redis+cluster://user:password@host:port,host:port. Raises BadRequest."""
        parts = urlsplit(url)
        user_info, at, places = parts.netloc.rpartition("@")
        nodes = tuple(_with_port(place) for place in places.split(",") if place)
        if not nodes or parts.path.strip("/") not in {"", "0"}:
            raise BadRequest(_URL_RULE + ("" if not nodes else ": it has one database, 0"))
        scheme = parts.scheme.lower().removesuffix("+cluster")
        return cls(scheme, user_info + at, nodes, parts.query)

    def url_of(self, node: str) -> str:
        """Return the URL of one node."""
        return SplitResult(self.scheme, self.user_info + node, "", self.query, "").geturl()

    @property
    def is_tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.scheme == "rediss"

    @property
    def login(self) -> tuple[str | None, str | None]:
        """The user and the password; None: none."""
        user, _, password = self.user_info.removesuffix("@").partition(":")
        return unquote(user) or None, unquote(password) or None

    @property
    def places(self) -> list[tuple[str, int]]:
        """Host and port of each node."""
        found = (node.rpartition(":") for node in self.nodes)
        return [(host.strip("[]"), int(port)) for host, _, port in found]


def _with_port(place: str) -> str:
    host, _, port = place.rpartition(":")
    has_port = bool(host) and port.isdecimal() and (host[0] != "[" or host[-1] == "]")
    return place if has_port else f"{place}:{_DEFAULT_PORT}"
