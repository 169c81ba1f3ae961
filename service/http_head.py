"""A request's head: what is refused although it can be parsed, and the reply to it."""

from collections.abc import Sequence

from service.api.errors import body_for

Refusal = tuple[bytes, str, str]  # the status line's end, the sentence, the error's code
Headers = Sequence[tuple[bytes, bytes]]  # the names in lower case

_UPGRADE = {b"upgrade", b"http2-settings"}


def fault_of_head(method: bytes, version: str, headers: Headers) -> Refusal | None:
    """Return why a head is refused: it is not HTTP/1, or two readers may read it differently."""
    n_hosts, codings = 0, []
    for name, value in headers:
        if name == b"host":
            n_hosts += 1
        elif name == b"transfer-encoding":
            codings.append(value.strip().lower())
    if version not in {"1.0", "1.1"}:
        sentence = f"HTTP/{version} is not served; send HTTP/1.1"
        return b"505 HTTP Version Not Supported", sentence, "bad_request"
    if method == b"CONNECT":
        return b"501 Not Implemented", "this server is no proxy", "bad_request"
    if n_hosts > 1 or (n_hosts == 0 and version == "1.1"):
        sentence = f"a request has one Host header; this one has {n_hosts}"
        return b"400 Bad Request", sentence, "bad_request"
    if codings and version == "1.0":
        sentence = "HTTP/1.0 has no Transfer-Encoding; send HTTP/1.1"
        return b"400 Bad Request", sentence, "bad_request"
    if codings and codings != [b"chunked"]:
        sentence = "the only Transfer-Encoding that is served is chunked"
        return b"501 Not Implemented", sentence, "bad_request"
    return None


def too_large(sentence: str) -> Refusal:
    """Return the refusal of a head with more than is read of one."""
    return b"431 Request Header Fields Too Large", sentence, "too_large"


def head_without_upgrade(method: bytes, url: bytes, headers: Headers) -> bytes:
    """Return a head of HTTP/1.1 without its offer to change to another protocol."""
    lines = [b"%s %s HTTP/1.1\r\n" % (method, url)]
    for name, value in headers:
        if name == b"connection":
            tokens = [one for one in value.split(b",") if one.strip().lower() not in _UPGRADE]
            if tokens:
                lines.append(b"%s: %s\r\n" % (name, b",".join(tokens).strip()))
        elif name not in _UPGRADE:
            lines.append(b"%s: %s\r\n" % (name, value))
    return b"".join(lines) + b"\r\n"


def last_reply(refusal: Refusal, path: str = "") -> bytes:
    """Return the whole reply to what is refused; the connection ends with it."""
    status, message, code = refusal
    body = body_for(path, int(status[:3]), message, code)
    head = b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Type: application/json\r\n" % status
    more = b"Retry-After: 1\r\n" if status.startswith(b"503") else b""
    return head + more + b"Content-Length: %d\r\n\r\n" % len(body) + body
