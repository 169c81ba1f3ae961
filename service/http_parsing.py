"""The parsing of HTTP/1.1: heads that are limited and not ambiguous, and no change of protocol."""

from typing import Any, NoReturn

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.http_head import Refusal, fault_of_head, head_without_upgrade, too_large


class HeadRefused(Exception):
    """The parser stops: the head is refused."""


class StrictParsing(HttpToolsProtocol):
    """uvicorn's fast parser, which refuses a head that is too large or can be read differently.

    An offer of another protocol is ignored: the parser stops at it, and reads the head again
    without it.
    """

    url = b""  # of the request being parsed
    _is_in_head, _is_message_complete = False, True
    _is_upgrade = False  # the head has an offer, and is to be read again
    _head_bytes = _n_fields = 0  # of the complete fields
    _refusal: Refusal | None = None

    def __init__(self, max_head_bytes: int, max_fields: int, **given: Any) -> None:
        super().__init__(**given)
        self._max_head_bytes, self._max_fields = max_head_bytes, max_fields

    @property
    def _is_in_body(self) -> bool:
        return not self._is_in_head and not self._is_message_complete

    def on_message_begin(self) -> None:
        """Start the limits of a new head."""
        super().on_message_begin()
        self._is_in_head, self._is_message_complete, self._is_upgrade = True, False, False
        self._head_bytes = self._n_fields = 0

    def on_url(self, url: bytes) -> None:
        """Count the bytes of the URL."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count the bytes of a field. One of a trailer is no header: it is dropped."""
        self._n_fields += 1
        if self._n_fields > self._max_fields:
            self._stop(f"the request's head has more than {self._max_fields} fields")
        self._count(len(name) + len(value) + 4)
        if self._is_in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Refuse an ambiguous head, or start the request."""
        version, method = self.parser.get_http_version(), self.parser.get_method()
        self._refusal = fault_of_head(method, version, self.headers)
        if self._refusal is not None:
            raise HeadRefused  # the parser stops
        self._is_upgrade = bool(self.parser.should_upgrade())
        if not self._is_upgrade:
            super().on_headers_complete()
        self._is_in_head, self._head_bytes, self._n_fields = False, 0, 0

    def on_body(self, body: bytes) -> None:
        """Pass a piece of the body on."""
        if not self._is_upgrade:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request."""
        self._is_message_complete = True
        if not self._is_upgrade:
            super().on_message_complete()

    def _feed(self, piece: bytes) -> int:
        """Parse a piece; return how many of its bytes were. Raises HttpParserError."""
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:  # the parser has stopped behind the head
            head = head_without_upgrade(self.parser.get_method(), self.url, self.headers)
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self.parser.feed_data(head)
            return int(upgrade.args[0])
        return len(piece)

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._max_head_bytes:
            self._stop(self._too_many_bytes)

    def _stop(self, sentence: str) -> NoReturn:
        self._refusal = too_large(sentence)
        raise HeadRefused  # the parser stops

    @property
    def _too_many_bytes(self) -> str:
        return f"the request's head has more than {self._max_head_bytes} bytes"

    def _fault(self, error: httptools.HttpParserError) -> Refusal:
        """Return the refusal of what the parser has stopped at."""
        if self._refusal is not None:
            return self._refusal
        sentence = f"the request is no HTTP/1.1: {error}"
        if isinstance(error, httptools.HttpParserCallbackError):  # its sentence is about our code
            sentence = "the request's target is no URL"
        return b"400 Bad Request", sentence, "bad_request"
