"""The lines of a batch's input: each is a request, or the reason why it is none."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from service.batch.call import ROUTES, RouteCall
from service.errors import BadRequest, CarouselError, TooLarge, Validation

MAX_CUSTOM_ID_CHARACTERS = 512
_WRAPPED = {"custom_id", "method", "url", "body"}
_ID_CHARACTERS = 32

JsonCheck = Callable[[bytes], str | None]
"""Returns which limit a JSON text exceeds, as a sentence; None if it exceeds none."""

PinModel = Callable[[str | None], tuple[str, str] | None]
"""Returns the version that a name means, and its digest; None where there is none."""


@dataclass(frozen=True, slots=True)
class LineFormat:
    """How lines are read. The rows of an output depend on it."""

    max_bytes: int = 8 * 1024**2
    default_route: str = "/generate"  # of a body with `inputs`, which two routes have
    only_route: str | None = None  # lines that name another one are refused
    excess: JsonCheck = lambda _: None
    pin: PinModel = lambda _: None


@dataclass(frozen=True, slots=True)
class BatchLine:
    """One line that is not blank: a call, or an error."""

    number: int  # from 1
    id: str  # of its row: a digest of the line, of its place, and of the model that answers it
    size_bytes: int
    custom_id: str | None = None
    call: RouteCall | None = None
    error: CarouselError | None = None


@dataclass(slots=True)
class LineReader:
    """Reads the lines of a file that is open for reading in binary mode, one after the other."""

    file: BinaryIO
    format: LineFormat
    read_bytes: int = 0
    number: int = 0  # of the last line
    _custom_ids: dict[bytes, int] = field(default_factory=dict)  # digests: an id may be long

    def __iter__(self) -> Iterator[BatchLine]:
        limit = self.format.max_bytes
        while raw := self.file.readline(limit + 2):
            self.number += 1
            self.read_bytes += len(raw)
            if len(raw.rstrip(b"\r\n")) > limit:
                yield self._too_long(raw)
            elif raw.strip():
                yield self._line(raw)

    def _too_long(self, raw: bytes) -> BatchLine:
        digest = hashlib.sha256(raw)
        while not raw.endswith(b"\n") and (raw := self.file.readline(1024**2)):
            digest.update(raw)
            self.read_bytes += len(raw)
        error = TooLarge(f"the line has more than {self.format.max_bytes:,} bytes")
        return BatchLine(self.number, self._id(digest.digest(), ""), 0, error=error)

    def _line(self, raw: bytes) -> BatchLine:
        raw = raw.strip()
        digest, custom_id, version = hashlib.sha256(raw).digest(), None, ""
        try:
            content = _parsed(raw, self.format)
            if "custom_id" in content:
                custom_id = self._custom_id(content["custom_id"])
            path, body = _request(content, self.format)
            name = body.get("model")
            pinned = self.format.pin(name if isinstance(name, str) else None)
            if pinned is not None:
                body["model"], version = pinned
            _check_is_pure(path, body)
        except CarouselError as error:
            line_id = self._id(digest, "")
            return BatchLine(self.number, line_id, len(raw), custom_id, error=error)
        line_id = self._id(digest, version + path)
        if path.startswith("/v1/") and path != "/v1/embeddings":
            body.setdefault("request_id", line_id)
        call = RouteCall(path, json.dumps(body).encode("ascii"), self._seed(digest, custom_id))
        return BatchLine(self.number, line_id, len(raw), custom_id, call)

    def _id(self, digest: bytes, version: str) -> str:
        told = b"%d\0%b\0%b" % (self.number, digest, version.encode())
        return hashlib.sha256(told).hexdigest()[:_ID_CHARACTERS]

    def _seed(self, digest: bytes, custom_id: str | None) -> int:
        """Return the seed of a line: with a `custom_id` it is the same at every place."""
        told = b"seed\0%b" % digest
        if custom_id is None:
            told += b"\0%d" % self.number
        return int.from_bytes(hashlib.sha256(told).digest()[:8], "big") >> 1

    def _custom_id(self, value: object) -> str:
        """Return a new `custom_id`. Raises Validation."""
        if not isinstance(value, str) or not 0 < len(value) <= MAX_CUSTOM_ID_CHARACTERS:
            raise Validation(
                f"`custom_id` is a text of 1 to {MAX_CUSTOM_ID_CHARACTERS} characters", "custom_id"
            )
        key = hashlib.sha256(value.encode("utf-8", "surrogatepass")).digest()[:16]
        first = self._custom_ids.setdefault(key, self.number)
        if first != self.number:
            raise Validation(
                f"`custom_id` is also that of line {first}; give each line its own", "custom_id"
            )
        return value


def _parsed(raw: bytes, line_format: LineFormat) -> dict[str, Any]:
    excess = line_format.excess(raw)
    if excess is not None:
        raise TooLarge(excess)
    try:
        content = json.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise BadRequest("the line is not a JSON object in UTF-8") from error
    if not isinstance(content, dict):
        raise BadRequest("the line is not a JSON object")
    return content


def _request(content: dict[str, Any], line_format: LineFormat) -> tuple[str, dict[str, Any]]:
    """Return the route and the body of a line. Raises Validation."""
    routes = ", ".join(ROUTES)
    if "url" in content or "body" in content:
        path, body = content.get("url"), content.get("body")
        unknown = sorted(set(content) - _WRAPPED)
        if unknown:
            raise Validation(f"`{unknown[0][:80]}` is not a known field of a line", unknown[0][:80])
        if content.get("method", "POST") != "POST":
            raise Validation("`method` is POST", "method")
        if not isinstance(path, str) or path not in ROUTES:
            given = path[:80] if isinstance(path, str) else type(path).__name__
            raise Validation(f"`url` is one of {routes}. Given: {given}", "url")
        if not isinstance(body, dict):
            raise Validation("`body` is a JSON object", "body")
    else:
        body = {name: value for name, value in content.items() if name != "custom_id"}
        found = {path for path, member in ROUTES.items() if member in body}
        if line_format.default_route in found:
            found = {line_format.default_route}
        if len(found) != 1:
            members = ", ".join(f"`{one}`" for one in dict.fromkeys(ROUTES.values()))
            raise Validation(
                f"the line has no `url`, and its body is known by exactly one of {members}", "url"
            )
        (path,) = found
    if line_format.only_route not in {None, path}:
        raise Validation(
            f"`url` is {line_format.only_route} in each line of this batch. Given: {path}", "url"
        )
    return path, dict(body)


def _check_is_pure(path: str, body: Mapping[str, Any]) -> None:
    """Raise Validation where a reply would depend on more than the line and the model."""
    parameters = body.get("parameters") if path == "/generate" else body
    reasons = {
        "stream": "a batch has whole replies",
        "session_id": "the lines of a batch are independent",
        "max_time": "the text would depend on the machine's speed",
    }
    for name, why in reasons.items():
        in_parameters = isinstance(parameters, dict) and parameters.get(name)
        if body.get(name) or in_parameters:
            raise Validation(f"`{name}` does not go with a batch: {why}", name)
