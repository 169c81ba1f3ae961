import asyncio
import io
import json
import logging
import os
import pty
import subprocess
import sys

import pytest

from service.telemetry import JsonLines, PassHandler, TextLines
from tests.process import ROOT


def line_of(message: str, *args: object, exc_info=None, lines=JsonLines, **extra: object) -> str:
    record = logging.LogRecord("carousel.x", logging.INFO, "f", 1, message, args, exc_info)
    vars(record).update(extra)
    return lines().format(record)


def test_no_text_begins_a_line_of_its_own():
    forged = 'x\r\n{"level": "error"}\u2028\x85'
    line = line_of("path %s", forged, path=forged)
    assert line.isascii()
    assert len(line.splitlines()) == 1
    assert json.loads(line)["path"] == forged
    assert json.loads(line)["message"] == f"path {forged}"


def test_a_traceback_is_one_line_too():
    try:
        raise ValueError("no\nyes")
    except ValueError:
        line = line_of("failed", exc_info=sys.exc_info())
    assert len(line.splitlines()) == 1
    assert "ValueError: no\nyes" in json.loads(line)["exception"]


def test_a_record_has_its_time_its_level_and_what_it_was_given():
    line = json.loads(line_of("request", status=200))
    assert line["level"] == "info"
    assert line["logger"] == "carousel.x"
    assert line["status"] == 200
    assert line["time"].endswith("+00:00")
    assert line.keys() == {"time", "level", "logger", "message", "status"}


def test_a_persons_line_has_the_message_and_the_fields():
    line = line_of("request", lines=TextLines, status=200, path="/generate", finish="length")
    assert line.endswith(" info    request status=200 path=/generate finish=length")


@pytest.mark.parametrize("value", ["a b", "a\nb", 'a"b', "a=b", "\x1b[31m", "\u2028", ""])
def test_no_value_breaks_a_persons_line(value):
    line = line_of("x %s", value, lines=TextLines, one=value, two=1)
    assert len(line.splitlines()) == 1
    assert line.isprintable()
    assert line.endswith(f" one={json.dumps(value)} two=1")


@pytest.mark.parametrize(
    ("log_format", "is_terminal", "is_text"),
    [("auto", True, True), ("auto", False, False), ("json", True, False), ("text", False, True)],
)
def test_text_is_for_a_terminal(log_format, is_terminal, is_text):
    """In a process of its own: standard error is a terminal, or a pipe."""
    code = (
        "import logging; from service.telemetry import log_to_stderr\n"
        f"log_to_stderr('info', {log_format!r}); logging.info('hello')"
    )
    ours, theirs = pty.openpty() if is_terminal else os.pipe()
    subprocess.run([sys.executable, "-c", code], stderr=theirs, check=True, cwd=ROOT)
    line = os.read(ours, 4096).decode()
    os.close(ours)
    os.close(theirs)
    assert line.startswith("{") is not is_text
    assert "hello" in line


class Writes(io.StringIO):
    """A stream that knows its writes."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[str] = []

    def write(self, text: str) -> int:
        self.all.append(text)
        return len(text)


async def test_the_lines_of_one_pass_of_the_event_loop_are_one_write():
    stream = Writes()
    logger = logging.Logger("test")  # noqa: LOG001 (of this test alone)
    logger.addHandler(PassHandler(stream))
    logger.info("a")
    logger.info("b")
    assert stream.all == []
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert stream.all == ["a\nb\n"]
    logger.info("c")
    logger.warning("d")
    assert stream.all[1:] == ["c\nd\n"], "a warning waits for nothing"
    await asyncio.to_thread(logger.info, "e")
    assert stream.all[2:] == ["e\n"], "nor does a thread"
    logger.info("f")
    logger.handlers[0].flush()  # as at the end of the process
    assert stream.all[3:] == ["f\n"]
