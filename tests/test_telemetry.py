import json
import logging
import sys

from service.telemetry import JsonLines


def line_of(message: str, *args: object, exc_info=None, **extra: object) -> str:
    record = logging.LogRecord("carousel.x", logging.INFO, "f", 1, message, args, exc_info)
    vars(record).update(extra)
    return JsonLines().format(record)


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
