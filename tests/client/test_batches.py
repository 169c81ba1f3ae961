"""Files and batches through the client."""

import json
import time

import pytest

from carousel_client import Invalid, NotFound, Unreachable
from tests.client.scripted_server import Answer

ROUTE = "/v1/completions"
LIMIT_S = 60.0


def lines_of(*prompts: object) -> str:
    """The input of a batch, of which each line is one request."""
    bodies = [{"model": "demo", "prompt": prompt, "max_tokens": 8} for prompt in prompts]
    return "".join(
        json.dumps({"custom_id": str(i), "method": "POST", "url": ROUTE, "body": body}) + "\n"
        for i, body in enumerate(bodies)
    )


def test_a_batch_from_upload_to_its_rows(kind, server):
    def ask(of):
        return kind.call(server.url, of)

    text = lines_of("The ", {"no": "text"}, "A ")
    file = ask(lambda to: to.files.upload(text, 'in "é".jsonl', expires_after_s=3_600))
    assert (file.name, file.purpose, file.size_bytes) == ('in "é".jsonl', "batch", len(text))
    assert (file.expires_at - file.created_at).total_seconds() == 3_600
    assert ask(lambda to: to.files.get(file.id)) == file
    assert ask(lambda to: to.files.content(file.id)) == text.encode()
    batch = ask(lambda to: to.batches.create(file.id, ROUTE, metadata={"who": "me"}))
    assert (batch.endpoint, batch.input_file_id, batch.metadata) == (ROUTE, file.id, {"who": "me"})
    end = time.monotonic() + LIMIT_S
    while not (batch := ask(lambda to: to.batches.get(batch.id))).is_finished:
        assert time.monotonic() < end, batch
        time.sleep(0.1)
    assert (batch.status, batch.total, batch.completed, batch.failed) == ("completed", 3, 2, 1)
    assert batch.created_at <= batch.completed_at <= batch.expires_at
    rows = ask(lambda to: to.files.content(batch.output_file_id)).splitlines()
    assert [json.loads(row)["custom_id"] for row in rows] == ["0", "2"]
    (failed,) = ask(lambda to: to.files.content(batch.error_file_id)).splitlines()
    assert json.loads(failed)["custom_id"] == "1"
    for each in (file.id, batch.output_file_id, batch.error_file_id):
        ask(lambda to, each=each: to.files.delete(each))
        with pytest.raises(NotFound):
            ask(lambda to, each=each: to.files.get(each))


def test_pages_have_everything_once(kind, server):
    def ask(of):
        return kind.call(server.url, of)

    file = ask(lambda to: to.files.upload(lines_of("a").encode(), "one.jsonl"))
    other = ask(lambda to: to.files.upload(lines_of("b"), "two.jsonl"))
    made = [ask(lambda to: to.batches.create(file.id, ROUTE)).id for _ in range(3)]
    first = ask(lambda to: to.batches.list(limit=2))
    rest = ask(lambda to: to.batches.list(limit=100, after=first.next))
    assert (len(first.batches), rest.next) == (2, None)
    listed = [batch.id for batch in (*first.batches, *rest.batches)]
    assert set(made) <= set(listed)
    assert len(listed) == len(set(listed))
    page = ask(lambda to: to.files.list(limit=1))
    seen = []
    while True:
        seen += [one.id for one in page.files]
        if page.next is None:
            break
        page = ask(lambda to, after=page.next: to.files.list(limit=1, after=after))
    assert {file.id, other.id} <= set(seen)
    assert len(seen) == len(set(seen))


def test_a_cancelled_batch_says_so(kind, server):
    def ask(of):
        return kind.call(server.url, of)

    file = ask(lambda to: to.files.upload(lines_of(*["The "] * 2_000), "many.jsonl"))
    batch = ask(lambda to: to.batches.create(file.id, ROUTE))
    assert ask(lambda to: to.batches.cancel(batch.id)).status in {"cancelling", "cancelled"}
    end = time.monotonic() + LIMIT_S
    while not (batch := ask(lambda to: to.batches.get(batch.id))).is_finished:
        assert time.monotonic() < end, batch
        time.sleep(0.1)
    assert batch.status == "cancelled"


def test_what_is_wrong_is_said(kind, server):
    def ask(of):
        return kind.call(server.url, of)

    with pytest.raises(NotFound):
        ask(lambda to: to.batches.get("batch_0"))
    with pytest.raises(NotFound):
        ask(lambda to: to.batches.create("file-0", ROUTE))
    with pytest.raises(Invalid, match="endpoint"):
        ask(lambda to: to.batches.create("file-0", "/sessions"))
    with pytest.raises(Invalid, match="expires_after"):
        ask(lambda to: to.files.upload("{}", "in.jsonl", expires_after_s=1))
    file = ask(lambda to: to.files.upload("", "empty.jsonl"))
    batch = ask(lambda to: to.batches.create(file.id, ROUTE))
    end = time.monotonic() + LIMIT_S
    while not (batch := ask(lambda to: to.batches.get(batch.id))).is_finished:
        assert time.monotonic() < end, batch
        time.sleep(0.1)
    assert batch.status == "failed"
    assert batch.errors[0]["code"] == "validation"


@pytest.mark.parametrize(
    "of",
    [
        lambda to: to.files.upload("{}", "in.jsonl"),
        lambda to: to.batches.create("file-1", ROUTE),
    ],
)
def test_nothing_is_made_twice(kind, script, of):
    script.answers = [Answer(0), Answer(0)]
    with pytest.raises(Unreachable):
        kind.call(script.url, of)
    assert len(script.lines) == 1
