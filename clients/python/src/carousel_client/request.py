"""A request of the HTTP API, and how its response is parsed. Source: docs/reference/http.md."""

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar
from urllib.parse import quote, urlencode

from carousel_client.errors import UnexpectedResponse
from carousel_client.parameters import GenerateParameters, InspectOptions, TraceStreamOptions

T = TypeVar("T")
Parser = Callable[[Any], T]
OnDisconnect = Literal["cancel", "continue"]

TEXT = {"Content-Type": "text/plain; charset=utf-8"}
BINARY = {"Content-Type": "application/octet-stream"}


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request. Only one that `is_repeatable` is sent again after a lost response."""

    method: str
    path: str
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    is_repeatable: bool = True

    def arguments(self, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return httpx2's arguments, with further headers."""
        return {
            "method": self.method,
            "url": self.path,
            "content": self.content,
            "headers": {**self.headers, **(headers or {})},
        }

    def parsed(self, content: bytes, parse: Parser[T]) -> T:
        """Return the value of a successful response. Raises UnexpectedResponse."""
        try:
            return parse(json.loads(content))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UnexpectedResponse(
                f"the response to {self.method} {self.path} is not one of Carousel's: "
                f"{content[:200].decode(errors='replace')!r}"
            ) from error


def events(path: str, after: str | None) -> Request:
    """Return a GET of the events after the one with this id, or of all."""
    return Request("GET", path, headers={} if after is None else {"Last-Event-ID": after})


def with_json(
    method: str,
    path: str,
    body: Mapping[str, Any],
    *,
    is_once: bool = False,
    is_repeatable: bool = True,
) -> Request:
    """Return a request with a body of JSON, without its null members.

    With an idempotency key (`is_once`) the server carries it out once, however often it is sent.
    """
    headers = {"Content-Type": "application/json"}
    if is_once:
        headers["Idempotency-Key"] = secrets.token_hex(16)
    return Request(method, path, json.dumps(given(**body)).encode(), headers, is_repeatable)


def with_file(path: str, fields: Mapping[str, str], name: str, content: bytes) -> Request:
    """Return a POST of a form with a file. It is not repeatable: each one stores a file."""
    boundary = secrets.token_hex(16)
    for character, sent in (("\\", "\\\\"), ('"', '\\"'), ("\r", " "), ("\n", " ")):
        name = name.replace(character, sent)
    parts = {f'name="{field}"': value.encode() for field, value in fields.items()}
    parts[f'name="file"; filename="{name}"'] = content
    pieces = [
        b"--%s\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n"
        % (boundary.encode(), head.encode(), value)
        for head, value in parts.items()
    ]
    body = b"".join([*pieces, b"--%s--\r\n" % boundary.encode()])
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    return Request("POST", path, body, headers, is_repeatable=False)


def completion(
    path: str,
    inputs: str,
    parameters: GenerateParameters,
    model: str | None,
    session_id: str | None,
    expected_position: int | None,
    on_disconnect: OnDisconnect,
) -> Request:
    """Return the request of a completion; a session's is one turn, however often it is sent."""
    is_turn = session_id is not None
    body = {
        "inputs": inputs,
        "parameters": dict(parameters) or None,
        "model": model,
        "session_id": session_id,
        "expected_position": expected_position,
        "on_disconnect": on_disconnect if is_turn else None,
    }
    return with_json("POST", path, body, is_once=is_turn)


def given(**fields: Any) -> dict[str, Any]:
    """Return the fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def url_path(*segments: str) -> str:
    """Return a path of quoted segments. Raises ValueError where one would change the path."""
    for name in segments:
        if not name.strip("."):
            raise ValueError(
                f"{name!r} is no name of a session, model, alias, train job, file or batch"
            )
    return "".join("/" + quote(name, safe="@") for name in segments)


TRACE_LISTS = ("layers", "cells", "signals", "steer")


def inspection(
    text: str,
    model: str | None,
    session_id: str | None,
    options: InspectOptions,
    format_: str,
) -> Request:
    """Return the request for the trace of a text."""
    names = {"inputs": text, "model": model, "session_id": session_id, "format": format_}
    chosen: Mapping[str, Any] = options
    lists = {name: list(chosen[name]) for name in TRACE_LISTS if name in chosen}
    return with_json("POST", "/inspect", {**options, **lists, **names})


def streamed_trace(
    text: str, model: str | None, session_id: str | None, options: TraceStreamOptions
) -> Request:
    """Return the request for a trace that is streamed."""
    chosen: dict[str, Any] = dict(options)
    for name in ("layers", "cells", "signals"):
        if name in chosen:
            chosen[name] = ",".join(map(str, chosen[name]))
    if "steer" in chosen:
        chosen["steer"] = json.dumps(list(chosen["steer"]))
    query = urlencode(given(model=model, session_id=session_id, **chosen))
    return Request("POST", f"/inspect/text?{query}", text.encode(), TEXT)
