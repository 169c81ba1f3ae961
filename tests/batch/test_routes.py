"""/v1/files and /v1/batches as OpenAI's own package uses them, and a server that is killed."""

import contextlib
import io
import json
import signal
import time
from collections.abc import Iterator

import httpx2
import openai
import pytest

from service.models.cell import LayerSpec
from service.models.spec import ModelSpec
from tests.bundles import put_model
from tests.process import Server, serving

SPEC = ModelSpec(5, None, (LayerSpec("lstm", 24),))
URL = "/v1/completions"
OVER = {"completed", "failed", "expired", "cancelled"}


def client_of(server: Server, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    made = tmp_path_factory.mktemp("home")
    for seed, name in enumerate(("owl", "cat")):
        put_model(made / "model_store", name, SPEC, tokens="abcde", random_seed=seed)
    return made


@pytest.fixture(scope="module")
def server(folder) -> Iterator[Server]:
    with serving(folder) as running:
        yield running


@pytest.fixture(scope="module")
def client(server) -> Iterator[openai.OpenAI]:
    with client_of(server) as made:
        yield made


def line(i: int, **body) -> dict:
    given = {"model": "owl", "prompt": "abc", "max_tokens": 5, "temperature": 1.0} | body
    return {"custom_id": f"n{i}", "method": "POST", "url": URL, "body": given}


def upload(client: openai.OpenAI, lines, name="in.jsonl"):
    text = "".join(one if isinstance(one, str) else json.dumps(one) + "\n" for one in lines)
    return client.files.create(file=(name, io.BytesIO(text.encode())), purpose="batch")


def begin(client, lines, **options):
    given = {"endpoint": URL, "completion_window": "24h"} | options
    return client.batches.create(input_file_id=upload(client, lines).id, **given)


def waited_for(client, batch_id: str, statuses=OVER, limit_s: float = 90):
    until = time.monotonic() + limit_s
    while (batch := client.batches.retrieve(batch_id)).status not in statuses:
        assert time.monotonic() < until, batch
        time.sleep(0.1)
    return batch


def rows_of(client, file_id) -> list[dict]:
    return [json.loads(one) for one in client.files.content(file_id).text.splitlines()]


def test_files_are_uploaded_listed_read_and_deleted(client):
    made = upload(client, [line(0)], "requests.jsonl")
    assert (made.object, made.filename, made.purpose) == ("file", "requests.jsonl", "batch")
    assert made.bytes == len(client.files.content(made.id).content)
    assert client.files.retrieve(made.id) == made
    other = upload(client, [line(1)])
    ids = [one.id for one in client.files.list(purpose="batch")]
    assert {made.id, other.id} <= set(ids)
    assert [one.id for one in client.files.list(limit=1)][: len(ids)]
    assert client.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError, match="there is no file"):
        client.files.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        client.files.content(made.id)
    with pytest.raises(openai.UnprocessableEntityError, match="`purpose` is batch"):
        client.files.create(file=io.BytesIO(b"{}"), purpose="assistants")
    kept = client.files.create(
        file=io.BytesIO(b"{}"),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 3_600},
    )
    assert kept.expires_at == kept.created_at + 3_600


def test_a_batch_is_answered_line_by_line(client):
    lines = [
        *(line(i) for i in range(20)),
        line(3),
        line(30, prompt="xyz"),
        line(31, model="dog"),
        "no JSON\n",
        {"custom_id": "s", "url": "/score", "body": {"inputs": "abc"}},
        line(32, model="cat", n=2),
    ]
    made = begin(client, lines, metadata={"run": "7"})
    assert made.status in {"validating", "in_progress"}
    assert (made.metadata, made.expires_at) == ({"run": "7"}, made.created_at + 86_400)
    done = waited_for(client, made.id)
    assert done.status == "completed"
    counts = done.request_counts
    assert (counts.total, counts.completed, counts.failed) == (26, 21, 5)
    assert done.completed_at >= done.finalizing_at >= done.in_progress_at >= done.created_at
    answers = rows_of(client, done.output_file_id)
    assert [row["custom_id"] for row in answers] == [*(f"n{i}" for i in range(20)), "n32"]
    assert {len(row["response"]["body"]["choices"][0]["text"]) for row in answers} == {5}
    assert answers[-1]["response"]["body"]["model"] == "cat@1"
    assert {row["response"]["body"]["created"] for row in answers} == {made.created_at}
    failed = rows_of(client, done.error_file_id)
    assert [row["line"] for row in failed] == [21, 22, 23, 24, 25]
    codes = [row["error"]["code"] for row in failed]
    assert codes[1:4] == ["unknown_character", "model_not_found", "bad_request"]
    assert client.files.retrieve(done.output_file_id).purpose == "batch_output"
    assert made.id in [one.id for one in client.batches.list(limit=5)]
    assert client.batches.cancel(made.id).status == "completed"  # nothing happens


def test_two_batches_of_the_same_lines_have_the_same_texts(client):
    lines = [line(i, max_tokens=20) for i in range(10)]
    texts = []
    for _ in range(2):
        done = waited_for(client, begin(client, lines).id)
        rows = rows_of(client, done.output_file_id)
        texts.append([row["response"]["body"]["choices"][0]["text"] for row in rows])
    assert texts[0] == texts[1]
    assert len(set(texts[0])) == 10


def test_a_cancelled_and_an_expired_batch_keep_what_is_done(client):
    endless = [line(0), *(line(i, max_tokens=900_000) for i in range(1, 200))]
    made = begin(client, endless)
    until = time.monotonic() + 60
    while not client.batches.retrieve(made.id).request_counts.completed:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert client.batches.cancel(made.id).status in {"cancelling", "cancelled"}
    done = waited_for(client, made.id)
    assert (done.status, done.error_file_id) == ("cancelled", None)
    assert done.cancelled_at >= done.cancelling_at
    assert rows_of(client, done.output_file_id)[0]["custom_id"] == "n0"

    done = waited_for(client, begin(client, endless, completion_window="2s").id)
    assert done.status == "expired"
    n_done = len(rows_of(client, done.output_file_id)) if done.output_file_id else 0
    failed = rows_of(client, done.error_file_id)
    assert n_done + len(failed) == 200
    assert {row["error"]["code"] for row in failed} == {"batch_expired"}
    assert done.request_counts.failed == len(failed)


def test_what_cannot_be_done_is_refused(client):
    with pytest.raises(openai.NotFoundError, match="there is no file"):
        client.batches.create(input_file_id="file-abc", endpoint=URL, completion_window="24h")
    for options, words in (
        ({"endpoint": "/admin/models"}, "`endpoint` is one of"),
        ({"completion_window": "soon"}, "`completion_window` is 'soon'"),
        ({"completion_window": "31d"}, "at most 30d"),
        ({"metadata": {"a": "b" * 600}}, "`metadata` has at most"),
    ):
        with pytest.raises(openai.UnprocessableEntityError, match=words):
            begin(client, [line(0)], **options)
    with pytest.raises(openai.NotFoundError, match="there is no batch"):
        client.batches.retrieve(f"batch_{32 * 'z'}")
    done = waited_for(client, begin(client, ["\n \n"]).id)
    assert done.status == "failed"
    assert "no line" in done.errors.data[0].message
    done = waited_for(client, begin(client, [line(0)]).id)
    with pytest.raises(openai.UnprocessableEntityError, match="purpose batch"):
        client.batches.create(
            input_file_id=done.output_file_id, endpoint=URL, completion_window="24h"
        )


def test_a_deleted_input_does_not_end_its_batch(client):
    made = begin(client, [line(i, max_tokens=200) for i in range(50)])
    client.files.delete(made.input_file_id)
    assert waited_for(client, made.id).request_counts.completed == 50


def test_lines_are_counted_and_changes_are_audited(client, server):
    waited_for(client, begin(client, [line(0), line(0)]).id)
    with httpx2.Client(base_url=server.url) as http:
        text = http.get("/metrics").text
        assert 'carousel_batch_lines_total{outcome="completed"}' in text
        assert 'carousel_batch_lines_total{outcome="failed"}' in text
        actions = {one["action"] for one in http.get("/admin/audit").json()["records"]}
    assert "batch.create" in actions


def used_by(http: httpx2.Client, owner: str) -> dict[str, int]:
    rows = http.get("/admin/usage", params={"owner": owner}).json()["usage"]
    names = ("requests", "prompt_tokens", "generated_tokens")
    return {name: sum(row[name] for row in rows) for name in names}


def test_a_batch_is_one_record_of_the_log_and_its_lines_are_usage(client, server):
    prompt = "aebdcaebdc"
    lines = [line(i, prompt=prompt) for i in range(3)]
    with httpx2.Client(base_url=server.url) as http:
        before = used_by(http, "")
        made = waited_for(client, begin(client, [*lines, line(3, prompt=7)]).id)
        empty = waited_for(client, begin(client, []).id)
        until = time.monotonic() + 30
        wanted = {"requests": 3, "prompt_tokens": 30, "generated_tokens": 15}
        while {name: n - before[name] for name, n in used_by(http, "").items()} != wanted:
            assert time.monotonic() < until, (before, used_by(http, ""))  # written every 2 s
            time.sleep(0.1)
    records = [json.loads(one) for one in server.log.read_text().splitlines() if one[0] == "{"]
    found = {one["batch"]: one for one in records if one["logger"] == "carousel.batches"}
    record, failed = found[made.id], found[empty.id]
    counts = ("status", "route", "lines", "completed", "failed")
    assert [record[name] for name in counts] == ["completed", URL, 4, 3, 1]
    assert record["duration_ms"] >= 0
    assert (failed["status"], failed["error_type"]) == ("failed", "validation")
    assert sum(one.get("batch") == made.id for one in records) == 1
    assert not [one for one in records if prompt in str(one)]


def test_a_killed_server_goes_on_and_writes_what_it_would_have_written(folder):
    lines = [line(i, max_tokens=400) for i in range(300)]
    home = folder
    with serving(home) as server, client_of(server) as client:
        whole = waited_for(client, begin(client, lines).id)
        texts = rows_of(client, whole.output_file_id)
        made = begin(client, lines)
        waited_for(client, made.id, {"in_progress", *OVER})
        until = time.monotonic() + 60
        while client.batches.retrieve(made.id).request_counts.completed < 40:
            assert time.monotonic() < until
            time.sleep(0.05)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    with serving(home) as server, client_of(server) as client:
        done = waited_for(client, made.id)
        assert (done.status, done.request_counts.completed) == ("completed", 300)
        again = rows_of(client, done.output_file_id)
    assert [row["line"] for row in again] == list(range(1, 301))
    for one, other in zip(texts, again, strict=True):
        assert one["id"] == other["id"]
        assert one["response"]["body"]["choices"] == other["response"]["body"]["choices"]


def test_owners_see_only_their_own_and_limits_hold(folder):
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(folder))
        keys: dict[str, dict] = {}
        people = (
            ("root", {"scopes": ["admin"]}),  # the first one closes the server
            ("ana", {"models": ["owl"]}),
            ("bob", {"limits": {"stored_bytes": 2_500}}),
            ("eve", {}),
        )
        http = stack.enter_context(httpx2.Client(base_url=server.url))
        for name, more in people:
            asked = {"name": name, "scopes": ["generate"]} | more
            keys[name] = http.post("/admin/keys", json=asked).raise_for_status().json()
            http.headers["authorization"] = f"Bearer {keys['root']['secret']}"
        while httpx2.get(f"{server.url}/v1/files").status_code != 401:  # a count of keys is cached
            time.sleep(0.1)
        ana, bob, eve, root = (
            stack.enter_context(client_of(server, keys[one]["secret"]))
            for one in ("ana", "bob", "eve", "root")
        )
        made = begin(ana, [line(0), line(1, model="cat")])
        done = waited_for(ana, made.id)
        assert [row["custom_id"] for row in rows_of(ana, done.output_file_id)] == ["n0"]
        (refused,) = rows_of(ana, done.error_file_id)
        assert refused["error"]["code"] == "forbidden"
        for call in (
            lambda: eve.batches.retrieve(made.id),
            lambda: eve.batches.cancel(made.id),
            lambda: eve.files.content(done.output_file_id),
            lambda: eve.files.delete(done.output_file_id),
        ):
            with pytest.raises(openai.NotFoundError):
                call()
        assert list(eve.files.list()) == list(eve.batches.list()) == []
        with pytest.raises(openai.PermissionDeniedError, match="scope generate"):
            root.files.list()
        with pytest.raises(openai.APIStatusError, match="stored_bytes") as error:
            upload(bob, [line(i) for i in range(30)])
        assert error.value.status_code == 413
        full = waited_for(bob, begin(bob, [line(i) for i in range(12)]).id)
        assert full.status == "failed"
        assert "stored_bytes" in full.errors.data[0].message

        endless = begin(eve, [line(i, max_tokens=900_000) for i in range(40)])
        waited_for(eve, endless.id, {"in_progress"})
        http.delete(f"/admin/keys/{keys['eve']['id']}").raise_for_status()
        batch = next((folder / "data" / "batches").glob(f"*/{endless.id}/state.json"))
        until = time.monotonic() + 60
        while json.loads(batch.read_bytes())["status"] != "failed":
            assert time.monotonic() < until
            time.sleep(0.1)
