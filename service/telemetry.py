"""Logs on standard error: JSON lines, or lines for a person where it is a terminal."""

import asyncio
import contextlib
import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Literal, TextIO

LogFormat = Literal["auto", "json", "text"]

_ENCODER = json.JSONEncoder(ensure_ascii=True, default=str)
_N_OWN = len(vars(logging.makeLogRecord({})))
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """Formats each record, with its `extra`, as one line of JSON in ASCII: no value breaks it."""

    _second = (-1, "")  # the latest one, and its text

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its line break."""
        line: dict[str, object] = {
            "time": self._time_of(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= _extra(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _ENCODER.encode(line)

    def _time_of(self, record: logging.LogRecord) -> str:
        """Return its time in ISO 8601; the text of a second is made once."""
        second, text = self._second
        if second != int(record.created):
            second = int(record.created)
            text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            self._second = second, text
        return f"{text}.{int(1e3 * (record.created - second)):03}+00:00"


class TextLines(logging.Formatter):
    """Formats each record as one line for a person: time, level, message, then its `extra`.

    A value that could break the line, or look like another field, is in quotes. A traceback follows
    on lines of its own.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its last line break."""
        time = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        fields = [f"{name}={_shown(value)}" for name, value in _extra(record).items()]
        message = _escaped(record.getMessage())
        line = " ".join((time, f"{record.levelname.lower():7}", message, *fields))
        if record.exc_info:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        return line


class PassHandler(logging.StreamHandler[TextIO]):
    """Writes the lines of one pass of the event loop at once, at its end.

    A write gives the interpreter to another thread, and the event loop waits to get it back. A
    line of another thread, and a warning, is written at once, after those that wait.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._waiting: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or keep it until the end of the pass."""
        try:
            line = self.format(record) + self.terminator
        except Exception:  # noqa: BLE001 (as every handler)
            self.handleError(record)
            return
        self._waiting.append(line)
        loop = None
        if record.levelno < logging.WARNING:
            with contextlib.suppress(RuntimeError):  # a thread without an event loop
                loop = asyncio.get_running_loop()
        if loop is None:
            self.flush()
        elif len(self._waiting) == 1:
            loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what waits."""
        with self.lock or contextlib.nullcontext():
            lines, self._waiting = self._waiting, []
            with contextlib.suppress(OSError, ValueError):  # nobody reads the log any more
                if lines:
                    self.stream.write("".join(lines))
                self.stream.flush()


def log_to_stderr(level: str, log_format: LogFormat = "json") -> None:
    """Send every log record of the process to standard error; `auto` is text on a terminal.

    Records do not ask for what no format shows: thread, process, and the line that made them.
    """
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001 (the way that the documentation of logging names)
    is_text = log_format == "text" or (log_format == "auto" and sys.stderr.isatty())
    handler = PassHandler(sys.stderr)
    handler.setFormatter(TextLines() if is_text else JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _extra(record: logging.LogRecord) -> Mapping[str, object]:
    given = islice(vars(record).items(), _N_OWN, None)  # after those that every record has
    return {name: value for name, value in given if name not in _OWN}


def _shown(value: object) -> str:
    text = str(value)
    is_plain = text.isascii() and text.isprintable() and not set(text) & set(' "=')
    return text if is_plain and text else json.dumps(text, ensure_ascii=True)


def _escaped(message: str) -> str:
    """Return a message without line breaks and control characters."""
    return "".join(one if one.isprintable() else f"\\x{ord(one):02x}" for one in message)
