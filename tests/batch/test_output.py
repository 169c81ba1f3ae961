"""The output of a batch: continued after a kill at any byte, refused where it is another's."""

import io
import json

import pytest

from service.batch.call import RouteReply
from service.batch.line import BatchLine, LineFormat, LineReader
from service.batch.output import BatchOutput
from service.batch.row import error_row, is_failed, refused_row, reply_row
from service.errors import Validation

SOURCE = b'{"inputs": "a"}\n\n{"inputs": \n{"prompt": "c", "custom_id": "x"}\n'


def lines(source: bytes = SOURCE) -> list[BatchLine]:
    return list(LineReader(io.BytesIO(source), LineFormat()))


def row(line: BatchLine) -> bytes:
    if line.call is None:
        return error_row(line, line.error)
    body = {"created": 9, "text": "é\n", "usage": {"total_tokens": 1, "prompt_tokens_details": {}}}
    return reply_row(line, RouteReply(200, json.dumps(body).encode()), 5)


def test_rows_have_openais_shape():
    first, second, third = (json.loads(row(line)) for line in lines())
    assert first["response"]["status_code"] == 200
    assert first["response"]["body"]["created"] == 9  # not of /v1: as it is
    assert first["error"] is None
    assert (second["line"], second["response"]) == (3, None)
    assert second["error"]["code"] == "bad_request"
    assert third["custom_id"] == "x"
    assert third["response"]["body"] == {"created": 5, "text": "é\n", "usage": {"total_tokens": 1}}
    assert third["id"] == f"batch_req_{third['response']['request_id']}"


@pytest.mark.parametrize(
    "body",
    [
        {"error": "no", "error_type": "validation"},
        {"error": {"message": "no", "type": "t", "param": None, "code": "validation"}},
    ],
)
def test_a_routes_error_is_an_error_of_the_row(body):
    found = reply_row(lines()[0], RouteReply(422, json.dumps(body).encode()), 0)
    assert is_failed(found)
    told = json.loads(found)
    assert told["error"] == {"code": "validation", "message": "no"}
    assert told["response"]["status_code"] == 422
    assert told["response"]["body"] == body
    assert is_failed(refused_row(lines()[0], "batch_expired", "late"))


def test_every_cut_of_an_output_is_continued_to_the_same_bytes(tmp_path):
    path = tmp_path / "out.jsonl"
    whole = b"".join(map(row, lines()))
    for n in range(len(whole) + 1):
        path.write_bytes(whole[:n])
        with BatchOutput(path) as output:
            for line in output.resume(iter(lines())):
                output.write(row(line))
            assert (output.rows, output.failed_rows) == (3, 1), n
        assert path.read_bytes() == whole, n


def test_the_output_of_something_else_is_refused_and_stays(tmp_path):
    path = tmp_path / "out.jsonl"
    whole = b"".join(map(row, lines()))
    for content, source in (
        (whole, SOURCE.replace(b'"a"', b'"b"')),
        (whole, b"\n" + SOURCE),
        (whole, SOURCE.splitlines(keepends=True)[0]),
        (b"my notes", SOURCE),
        (b"my notes\n", SOURCE),
        (b"{", b""),
    ):
        path.write_bytes(content)
        with BatchOutput(path) as output, pytest.raises(Validation, match="give another output"):
            output.resume(iter(lines(source)))
        assert path.read_bytes() == content


def test_an_output_has_one_writer(tmp_path):
    path = tmp_path / "out.jsonl"
    with BatchOutput(path), pytest.raises(Validation, match="another process writes"):
        BatchOutput(path)
    BatchOutput(path).close()


def test_a_row_longer_than_a_piece_is_read_whole(tmp_path):
    path, (first, *rest) = tmp_path / "out.jsonl", lines()
    long = reply_row(first, RouteReply(200, b'{"t": "%b"}' % (b"x" * 3_000_000)), 0)
    for content, n in ((long, 1), (long[:-1], 0)):
        path.write_bytes(content)
        with BatchOutput(path) as output:
            left = list(output.resume(iter([first, *rest])))
            assert (output.rows, len(left)) == (n, 3 - n)
        assert path.stat().st_size == (len(long) if n else 0)
