"""The records of a streamed trace: a line of JSON, then a record of fixed size for each token."""

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from carousel_client.errors import StreamBroken, UnexpectedResponse
from carousel_client.request import Request
from carousel_client.responses import Json
from carousel_client.resumable import Resumable

_FORMATS = {"<i4": "i", "<i8": "q", "<f8": "d", "<f4": "f", "<f2": "e", "u1": "B", "|u1": "B"}
_MOST_HEAD_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class TracedToken:
    """A token of a streamed trace; `signals` has values by cell, named `layers.0.c` and so on."""

    id: int
    start: int  # in characters of the text
    stop: int
    logprob: float | None  # None for the first token of a text without a session
    signals: Mapping[str, Sequence[float]]  # bytes with uint8: see `ranges` of the head


class _RecordFormat:
    """How a record is unpacked, from the head's `dtype`."""

    def __init__(self, head: Json) -> None:
        fields, formats = [], []
        for name, kind, *shape in head["dtype"]:
            n = shape[0][0] if shape else 1
            fields.append((name, n))
            formats.append(f"{n}{_FORMATS[kind]}")
        self._fields = fields
        self._struct = struct.Struct("<" + "".join(formats))
        self.size = self._struct.size
        if self.size != head["record_bytes"]:
            raise ValueError(f"record_bytes is {head['record_bytes']}, not {self.size}")

    def tokens(self, content: bytes) -> Iterator[TracedToken]:
        for values in self._struct.iter_unpack(content):
            at, named = 0, dict[str, Sequence[float]]()
            for name, n in self._fields:
                named[name] = values[at : at + n]
                at += n
            id_, start, stop, logprob = (
                named.pop(name)[0] for name in ("id", "start", "stop", "logprob")
            )
            likely = None if math.isnan(logprob) else logprob
            yield TracedToken(int(id_), int(start), int(stop), likely, named)


class TraceRecords(Resumable[TracedToken]):
    """The records received so far. Once there is one, the request is not sent again."""

    def __init__(self, request: Request, timeout_s: float) -> None:
        super().__init__(timeout_s)
        self.head: Json | None = None
        self._request, self._left = request, b""
        self._format: _RecordFormat | None = None

    @property
    def request(self) -> Request:
        """The one request."""
        return self._request

    def start_response(self, status: int, headers: Mapping[str, str]) -> bool:
        """Take a response's head; return whether its body is records. Raises UnexpectedResponse."""
        kind = headers.get("content-type", "")
        if status == 200 and not kind.startswith("application/octet-stream"):
            raise UnexpectedResponse("the response is not a stream of records")
        self._left = b""
        return status == 200

    def feed(self, chunk: bytes) -> Iterator[TracedToken]:
        """Yield the tokens that a chunk of the body completes. Raises UnexpectedResponse."""
        content = self._left + chunk
        if self._format is None:
            line, end, content = content.partition(b"\n")
            if not end and len(line) <= _MOST_HEAD_BYTES:
                self._left = line
                return
            self._format = self._read_head(line)
        n = len(content) // self._format.size * self._format.size
        self._left = content[n:]
        yield from self._format.tokens(content[:n])

    def _read_head(self, line: bytes) -> _RecordFormat:
        try:
            head = json.loads(line)
            found = _RecordFormat(head)
        except (ValueError, KeyError, TypeError, IndexError, struct.error) as error:
            message = f"the first line of a trace is not one of Carousel's: {line[:200]!r}"
            raise UnexpectedResponse(message) from error
        self.head = head
        return found

    def _delay_after_loss(self, error: Exception | None) -> float:
        if error is None and self.head is not None and not self._left:
            self.is_finished = True  # the body has its end
            return 0.0
        if self.head is None:
            return super()._delay_after_loss(error)
        reason = f": {error}" if error and str(error) else ""
        raise StreamBroken(f"the trace broke off before its end{reason}")
