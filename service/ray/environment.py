"""The environment of every process of a fleet on Ray: the flags that Ray reads at its import."""

import hmac
import math
import os
import socket
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import unquote, urlsplit

from service.cgroup import machine_share
from service.errors import BadRequest
from service.ray.fleet_file import REGISTER_S, FleetFile
from service.sessions.signing import check_secret
from service.settings import PREFIX, Settings
from service.store_address import is_cluster_url

RAY_VERSION = "2.60.0"
"""The version that the extra pins: the file of its HAProxy is completed by what it has here."""

HAPROXY_FLAG = "RAY_SERVE_ENABLE_HA_PROXY"
NO_HAPROXY = (
    "Ray's proxy in Python serves streams at less than half the speed and is refused: start every "
    f"node with `carousel fleet node FILE`, which sets {HAPROXY_FLAG}=1"
)
INSTALL = "pip install 'carousel-serve[ray]'"
_LONGEST_STREAM_S = 3_600
_HEAD_LIMIT_S = 5.0
_CHECK = {"INTER": "500ms", "FASTINTER": "500ms", "DOWNINTER": "250ms", "RISE": "1", "FALL": "3"}


def check_ray() -> None:
    """Check that Ray is installed in the version that the extra pins. Raises BadRequest."""
    try:
        found = version("ray")
    except PackageNotFoundError as error:
        raise BadRequest(
            f"a fleet on Ray needs Ray, which this installation lacks: {INSTALL}"
        ) from error
    if found != RAY_VERSION:
        raise BadRequest(
            f"Ray is installed in version {found}, and this version of Carousel runs on "
            f"{RAY_VERSION} only: {INSTALL}"
        )


def fleet_settings(file: FleetFile) -> Settings:
    """Return the settings of the file's replicas, as this machine has them. Raises BadRequest."""
    settings = Settings.read(**_options(file))
    if settings.redis_url is None or settings.secret is None:
        raise BadRequest(
            "a fleet keeps its sessions and the state of its head in one store: set "
            "CAROUSEL_REDIS_URL and CAROUSEL_SECRET, the same on each node"
        )
    check_secret(settings.secret.get_secret_value())
    return settings


def check_head(file: FleetFile) -> None:
    """Check that the head listens. Raises BadRequest, where Ray would try again for minutes."""
    host, _, port = file.head.rpartition(":")
    try:
        socket.create_connection((host, int(port)), _HEAD_LIMIT_S).close()
    except OSError as error:
        raise BadRequest(
            f"the head of the fleet does not listen at {file.head} ({error.strerror or error}); "
            "start it with `carousel fleet node FILE --head`"
        ) from error


def replica_settings() -> Settings:
    """Return the settings of this process, a replica of a Ray with HAProxy. Raises BadRequest."""
    if os.environ.get(HAPROXY_FLAG) != "1":
        raise BadRequest(NO_HAPROXY)
    settings = Settings.read()
    if settings.redis_url is None or settings.secret is None:
        raise BadRequest(
            "this node has no CAROUSEL_REDIS_URL or no CAROUSEL_SECRET; start it with "
            "`carousel fleet node FILE` where both are set"
        )
    return settings


def fleet_environment(
    file: FleetFile, launcher: Path, given: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Return the variables of the nodes of a fleet and of what talks to them.

    `launcher` is the program that Ray starts as HAProxy. What `given` has of Ray's tuning stays;
    the ingress does not. Raises BadRequest where the head's state cannot be kept.
    """
    settings = fleet_settings(file)
    assert settings.redis_url is not None
    assert settings.secret is not None
    secret = settings.secret.get_secret_value()
    root = str(Path(__file__).parents[2])
    tuning = {
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": f"{REGISTER_S:g}",
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(
            max(_LONGEST_STREAM_S, math.ceil(settings.drain_s))
        ),
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": str(_LONGEST_STREAM_S),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, machine_share().cores)),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_gcs_rpc_server_reconnect_timeout_s": "600",  # for so long nodes wait for a head
        "RAY_num_redis_request_retries": "600",  # for ten minutes the head waits for the store
        "PYTHONPATH": root,
    }
    tuning |= {f"RAY_SERVE_HAPROXY_HEALTH_CHECK_{name}": value for name, value in _CHECK.items()}
    fixed = {
        HAPROXY_FLAG: "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(launcher),
        "RAY_worker_niceness": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": hmac.digest(secret.encode(), b"ray nodes", "sha256").hex(),
        "RAY_external_storage_namespace": file.name,
        "CAROUSEL_HOST": file.host,
        "CAROUSEL_TRUSTED_PROXIES": settings.trusted_proxies,
        "CAROUSEL_SECRET": secret,
        "CAROUSEL_REDIS_URL": settings.redis_url.get_secret_value(),
        **head_store(settings.redis_url.get_secret_value()),
    }
    return tuning | dict(given) | fixed


def head_store(url: str) -> dict[str, str]:
    """Return where Ray's head keeps its state: in the store. Raises BadRequest where it cannot."""
    parts = urlsplit(url)
    if is_cluster_url(url) or parts.scheme not in {"redis", "rediss"} or not parts.hostname:
        raise BadRequest(
            "the head of a fleet keeps its state in the store over TCP: CAROUSEL_REDIS_URL has to "
            "be like redis://10.0.0.1:6379, not a socket and not a cluster"
        )
    if parts.path.strip("/") not in {"", "0"}:
        raise BadRequest(
            f"the head of a fleet uses database 0 of the store, and CAROUSEL_REDIS_URL names "
            f"{parts.path.strip('/')}; remove the number"
        )
    scheme = "rediss://" if parts.scheme == "rediss" else ""
    return {"RAY_REDIS_ADDRESS": f"{scheme}{parts.hostname}:{parts.port or 6379}"}


def head_login(url: str) -> list[str]:
    """Return the options of `ray start` for a store that asks for a password."""
    parts = urlsplit(url)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    options = [f"--redis-username={user}"] if user else []
    return options + ([f"--redis-password={password}"] if password else [])


def _options(file: FleetFile) -> dict[str, object]:
    names = {name.removeprefix(PREFIX).lower(): v for name, v in file.environment.items()}
    return dict(names)
