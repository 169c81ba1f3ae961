"""The lines of a batch: what is a request, what is none, and what a row and a seed depend on."""

import io
import json

import pytest

from service.batch.call import ROUTES
from service.batch.line import BatchLine, LineFormat, LineReader

WRAPPED = {
    "custom_id": "a",
    "method": "POST",
    "url": "/v1/completions",
    "body": {"model": "owl", "prompt": "x"},
}


def read(*lines: object, **options) -> list[BatchLine]:
    raw = b"".join(
        one if isinstance(one, bytes) else json.dumps(one).encode() + b"\n" for one in lines
    )
    return list(LineReader(io.BytesIO(raw), LineFormat(**options)))


def refusal(line: object, **options) -> str:
    (found,) = read(line, **options)
    assert found.call is None
    return str(found.error)


def test_every_shape_names_its_route():
    bodies = [{"prompt": "a"}, {"messages": []}, {"input": "a"}, {"inputs": "a"}]
    found = [line.call.path for line in read(*bodies, WRAPPED)]
    assert found == [*list(ROUTES)[:4], "/v1/completions"]
    (scored,) = read({"inputs": "a"}, default_route="/score")
    assert scored.call.path == "/score"
    for path in ROUTES:
        (one,) = read({"url": path, "body": {"model": "owl"}})
        assert one.call.path == path
        assert json.loads(one.call.body)["model"] == "owl"


def test_a_line_keeps_its_number_and_its_name():
    lines = read({"inputs": "a"}, b"\n", b"  \r\n", WRAPPED, {"inputs": "b", "custom_id": "ü"})
    assert [(one.number, one.custom_id) for one in lines] == [(1, None), (4, "a"), (5, "ü")]
    assert json.loads(lines[2].call.body) == {"inputs": "b"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{\n", "not a JSON object in UTF-8"),
        (b"\xff{}\n", "not a JSON object in UTF-8"),
        (b"[" * 100_000 + b"\n", "not a JSON object in UTF-8"),
        (b'{"inputs": ' + b"9" * 5_000 + b"}\n", "not a JSON object in UTF-8"),
        ([1], "not a JSON object"),
        ({}, "no `url`"),
        ({"prompt": "a", "messages": []}, "exactly one of"),
        (WRAPPED | {"method": "GET"}, "`method` is POST"),
        (WRAPPED | {"url": "/admin/models"}, "`url` is one of"),
        (WRAPPED | {"url": ["/generate"]}, "Given: list"),
        (WRAPPED | {"body": "x"}, "`body` is a JSON object"),
        (WRAPPED | {"priority": 1}, "`priority` is not a known field"),
        (WRAPPED | {"custom_id": 7}, "`custom_id` is a text"),
        (WRAPPED | {"custom_id": ""}, "`custom_id` is a text"),
        ({"inputs": "a", "stream": True}, "`stream` does not go with a batch"),
        ({"inputs": "a", "session_id": "s"}, "`session_id` does not go with a batch"),
        ({"inputs": "a", "parameters": {"max_time": 1}}, "`max_time` does not go with a batch"),
        ({"prompt": "a", "max_time": 1}, "`max_time` does not go with a batch"),
    ],
)
def test_a_line_that_is_no_request_says_why(line, words):
    assert words in refusal(line)


def test_a_line_has_limits_and_the_next_one_is_read():
    long = {"inputs": "a" * 100}
    first, second = read(long, {"inputs": "b"}, max_bytes=64)
    assert "more than 64 bytes" in str(first.error)
    assert (second.number, second.call.path) == (2, "/generate")
    assert "too many" in refusal({"inputs": "a"}, excess=lambda _: "too many")
    assert "in each line of this batch" in refusal({"inputs": "a"}, only_route="/v1/completions")


def test_the_second_line_of_a_name_is_refused():
    first, second, third = read(WRAPPED, WRAPPED, WRAPPED | {"custom_id": "b"})
    assert first.call
    assert third.call
    assert "also that of line 1" in str(second.error)
    assert second.id != first.id


def test_a_row_depends_on_the_line_its_place_and_its_model():
    (one,) = read({"inputs": "a"})
    _, moved = read({"inputs": "b"}, {"inputs": "a"})
    (other,) = read({"inputs": "c"})
    (scored,) = read({"inputs": "a"}, default_route="/score")
    (pinned,) = read({"inputs": "a"}, pin=lambda _: ("owl@1", "sha256:1"))
    (later,) = read({"inputs": "a"}, pin=lambda _: ("owl@2", "sha256:2"))
    ids = [line.id for line in (one, moved, other, scored, pinned, later)]
    assert len(set(ids)) == len(ids)
    assert read({"inputs": "a"})[0].id == one.id
    assert json.loads(pinned.call.body)["model"] == "owl@1"


def test_a_digest_of_the_same_version_is_another_model():
    ids = {
        read({"inputs": "a"}, pin=lambda _, digest=digest: ("owl@1", digest))[0].id
        for digest in ("sha256:1", "sha256:2")
    }
    assert len(ids) == 2


def test_seeds_differ_by_place_where_lines_have_no_name():
    same = read(*[{"inputs": "a"}] * 50)
    assert len({line.call.seed for line in same}) == 50
    named = {"inputs": "a", "custom_id": "n"}
    (first,) = read(named)
    _, second = read({"inputs": "b"}, named)
    assert first.call.seed == second.call.seed
    assert all(0 <= line.call.seed < 2**63 for line in same)
