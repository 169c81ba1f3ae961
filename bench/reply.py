"""HTTP/1.1 replies, taken apart as their bytes come in, and the events in them counted."""

import httptools

EVENT = b"\ndata:"


class ReplyReader:
    """Reads the replies of one connection, one after another, whatever the borders of its pieces.

    A border of a chunk or of a read may lie between any two bytes. An event counts when its field's
    name has arrived. One thread at a time.
    """

    def __init__(self) -> None:
        """Begin before the first reply."""
        self._parser = httptools.HttpResponseParser(self)
        self.on_message_begin()

    @property
    def status(self) -> int:
        """The status of the reply that began last."""
        return int(self._parser.get_status_code())

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises httptools.HttpParserError where they are no reply."""
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        """Begin a reply: nothing of it has been read."""
        self.is_complete, self.events, self.body_bytes = False, 0, 0
        self._tail = b"\n"  # what an event's name may have begun with
        self.last_piece = b""

    def on_body(self, piece: bytes) -> None:
        """Count the events of a piece of the body, whose coding is already removed."""
        text = self._tail + piece
        self.events += text.count(EVENT)
        self.body_bytes += len(piece)
        self._tail = text[1 - len(EVENT) :]
        self.last_piece = piece

    def on_message_complete(self) -> None:
        """Note the end of the reply."""
        self.is_complete = True
