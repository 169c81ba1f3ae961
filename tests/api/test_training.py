"""Train jobs over HTTP: a server with workers, killed processes, trained models."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import psutil
import pytest
from safetensors.numpy import load

from tests.client.scripted_server import Answer, scripted, stream
from tests.process import ROOT, Server, serving

WORDS = "the cat sat on a mat and saw an owl in its oak by moon light then ran".split()  # noqa: SIM905
SMALL = {"embedding_dim": 16, "units": 48, "layers": 1}
SHORT = {"epochs": 2, "batch_size": 16, "sequence_length": 50, "validations_per_epoch": 4}


def a_text(characters: int, seed: int = 0) -> str:
    rng = random.Random(seed)
    words = " ".join(rng.choice(WORDS) for _ in range(characters // 3))
    return (words.replace(" and ", ",\n"))[:characters]


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("training")
    shutil.copytree(ROOT / "model_store" / "demo", folder / "model_store" / "demo")
    compiled = f"--tf_xla_persistent_cache_directory={folder / 'xla'}"  # once for all jobs
    with serving(folder, CAROUSEL_WORKERS="2", TF_XLA_FLAGS=compiled) as running:
        yield running


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.url, timeout=60) as client:
        yield client


def upload(http: httpx2.Client, text: str, name: str = "words") -> str:
    reply = http.post("/corpora", params={"name": name}, content=text.encode())
    assert reply.status_code == 201, reply.text
    return reply.json()["id"]


def submit(http: httpx2.Client, corpus: str, **more: object) -> str:
    body = {"name": "owl", "corpus": corpus, "architecture": SMALL, "training": SHORT, "seed": 7}
    reply = http.post("/train-jobs", json=body | more)
    assert reply.status_code == 202, reply.text
    assert reply.headers["location"] == f"/train-jobs/{reply.json()['id']}"
    return reply.json()["id"]


def follow(http: httpx2.Client, job: str, after: str | None = None) -> Iterator[tuple]:
    headers = {} if after is None else {"Last-Event-ID": after}
    with http.stream("GET", f"/train-jobs/{job}/events", headers=headers, timeout=120) as stream:
        event: dict[str, str] = {}
        for line in stream.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                event[name] = value
            elif "data" in event:
                yield event["event"], event["id"], json.loads(event["data"])
                event = {}


def end_of(http: httpx2.Client, job: str) -> dict:
    for name, _, _ in follow(http, job):
        if name == "done":
            break
    return http.get(f"/train-jobs/{job}").json()


def attempts(server: Server) -> list[psutil.Process]:
    """The processes that train."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    return [one for one in children if "service.worker" in one.cmdline()]


def workers(server: Server) -> list[psutil.Process]:
    children = psutil.Process(server.process.pid).children()
    return [one for one in children if one.cmdline()[-3:-1] == ["worker", "--parent"]]


def weights_of(server: Server, model: str) -> bytes:
    folder = server.log.parent / "model_store" / model.replace("@", "/")
    return (folder / "weights.safetensors").read_bytes()


def versions_of(server: Server, name: str) -> list[str]:
    return [path.name for path in (server.log.parent / "model_store" / name).iterdir()]


@pytest.fixture(scope="module")
def corpus(http) -> str:
    return upload(http, a_text(60_000))


@pytest.fixture(scope="module")
def undisturbed(http, server, corpus) -> bytes:
    """The weights of a job that was not interrupted."""
    job = end_of(http, submit(http, corpus, name="calm"))
    assert job["status"] == "succeeded", job
    return weights_of(server, job["model"])


@pytest.mark.tf
def test_from_a_text_to_a_stream(http, server, corpus):
    job = submit(http, corpus, alias="bird")
    told = list(follow(http, job))
    names = [name for name, _, _ in told]
    assert names[-1] == "done"
    assert {"progress", "validation", "checkpoint", "sample"} <= set(names)
    losses = [data["validation_nats"] for name, _, data in told if name == "validation"]
    assert losses[-1] < losses[0] < 4
    ended = http.get(f"/train-jobs/{job}").json()
    assert (ended["status"], ended["error"]) == ("succeeded", None)
    body = {"inputs": "the ", "model": "bird", "parameters": {"max_new_tokens": 50}}
    with http.stream("POST", "/generate_stream", json=body) as stream:
        assert sum(line.startswith("data:") for line in stream.iter_lines()) == 50
    manifest = json.loads(
        (
            server.log.parent / "model_store" / ended["model"].replace("@", "/") / "manifest.json"
        ).read_text()
    )["training"]
    assert manifest["corpus_sha256"].startswith(corpus)
    assert len(manifest["history"]) == len(losses)
    assert manifest["order"]["seed"] == 7

    # A client that reconnects gets the remaining events, once and in order.
    middle = len(told) // 2
    assert list(follow(http, job, told[middle][1])) == told[middle + 1 :]
    last = {"Last-Event-ID": told[-1][1]}
    assert http.get(f"/train-jobs/{job}/events", headers=last).status_code == 204
    beyond = {"Last-Event-ID": f"{2**64 - 1}-{2**64 - 1}"}
    assert http.get(f"/train-jobs/{job}/events", headers=beyond).status_code == 422


@pytest.mark.tf
@pytest.mark.slow
def test_a_worker_killed_twice_changes_no_bit_and_one_model_is_published(
    http, server, corpus, undisturbed
):
    job = submit(http, corpus, name="stormy", training=SHORT)
    kills = 0
    for name, _, _ in follow(http, job):
        if name != "checkpoint" or kills == 2:
            continue
        # A checkpoint of the attempt before may be read only now: then nothing runs to be killed.
        if http.get(f"/train-jobs/{job}").json()["attempt"] == kills + 1 and attempts(server):
            for process in workers(server):
                process.kill()
            kills += 1
    assert kills == 2
    ended = http.get(f"/train-jobs/{job}").json()
    assert (ended["status"], ended["attempt"]) == ("succeeded", 3)
    assert weights_of(server, ended["model"]) == undisturbed
    assert versions_of(server, "stormy") == ["1"]


@pytest.mark.tf
@pytest.mark.slow
def test_a_zombie_publishes_nothing(http, server, corpus, undisturbed):
    job = submit(http, corpus, name="walker")
    for name, _, _ in follow(http, job):
        if name == "checkpoint":
            break
    (zombie,) = attempts(server)
    zombie.suspend()
    try:
        ended = end_of(http, job)
        assert (ended["status"], ended["attempt"]) == ("succeeded", 2)
    finally:
        zombie.resume()
    zombie.wait(20)
    assert weights_of(server, ended["model"]) == undisturbed
    assert versions_of(server, "walker") == ["1"]
    assert http.get(f"/train-jobs/{job}").json() == ended


def cancelled(http: httpx2.Client, corpus: str, **more: object) -> tuple[str, str]:
    """A job that is cancelled after its first best checkpoint, and its last event's id."""
    job = submit(http, corpus, training=SHORT | {"epochs": 5_000}, **more)
    for name, _, data in follow(http, job):
        if name == "checkpoint" and data["name"] == "best":
            break
    refused = http.post(f"/train-jobs/{job}/publish")
    assert (refused.status_code, refused.json()["error_type"]) == (422, "validation")
    assert "status is running; only a cancelled job can be published" in refused.json()["error"]
    began = time.monotonic()
    assert http.post(f"/train-jobs/{job}/cancel").status_code == 202
    *_, (name, last, data) = follow(http, job)
    assert (name, data["status"]) == ("done", "cancelled")
    assert time.monotonic() - began < 5
    return job, last


def best_checkpoints(server: Server, job: str) -> list[Path]:
    return list((server.log.parent / "data" / "jobs" / job).glob("*/best*"))


@pytest.mark.tf
@pytest.mark.slow
def test_a_cancelled_job_ends_in_seconds_and_its_best_checkpoint_can_be_published(
    http, server, corpus
):
    job, last = cancelled(http, corpus, name="early", alias="early-bird")
    assert http.post(f"/train-jobs/{job}/cancel").json()["status"] == "cancelled"
    (kept,) = best_checkpoints(server, job)
    best = load(kept.read_bytes())

    published = http.post(f"/train-jobs/{job}/publish")
    assert (published.status_code, published.json()["status"]) == (202, "queued")
    assert published.json()["ended_at"] is None
    again = http.post(f"/train-jobs/{job}/publish")
    assert (again.status_code, again.json()["status"] in {"queued", "running"}) == (202, True)
    told = [(name, data) for name, _, data in follow(http, job, last)]
    assert told == [
        ("published", {"model": "early@1"}),
        ("done", {"status": "succeeded", "model": "early@1"}),
    ]
    ended = http.get(f"/train-jobs/{job}").json()
    assert (ended["status"], ended["model"], ended["error"]) == ("succeeded", "early@1", None)
    weights = load(weights_of(server, "early@1"))
    assert all((weights[name] == best[name]).all() for name in weights | best)
    body = {"inputs": "the ", "model": "early-bird", "parameters": {"max_new_tokens": 50}}
    assert len(http.post("/generate", json=body).json()["generated_text"]) == 50

    assert http.post(f"/train-jobs/{job}/publish").json() == ended
    assert versions_of(server, "early") == ["1"]
    assert best_checkpoints(server, job) == []


@pytest.mark.tf
@pytest.mark.slow
def test_a_publication_whose_worker_is_killed_stores_one_model(http, server, corpus):
    job, last = cancelled(http, corpus, name="twice", load_when_done=False)
    http.post(f"/train-jobs/{job}/publish")
    while http.get(f"/train-jobs/{job}").json()["status"] != "running":
        time.sleep(0.01)
    for process in workers(server):
        process.kill()
    *_, (name, _, data) = follow(http, job, last)
    assert (name, data) == ("done", {"status": "succeeded", "model": "twice@1"})
    assert http.get(f"/train-jobs/{job}").json()["attempt"] == 3
    assert versions_of(server, "twice") == ["1"]


@pytest.mark.tf
def test_a_job_without_a_best_checkpoint_is_not_published(http, corpus):
    job = submit(http, corpus, training=SHORT | {"epochs": 5_000})
    http.post(f"/train-jobs/{job}/cancel")  # before its first validation
    assert end_of(http, job)["status"] == "cancelled"
    refused = http.post(f"/train-jobs/{job}/publish")
    assert (refused.status_code, refused.json()["error_type"]) == (422, "validation")
    assert "has no best checkpoint" in refused.json()["error"]


@pytest.mark.usefixtures("undisturbed")
@pytest.mark.tf
@pytest.mark.slow
def test_training_starts_from_a_served_model(http, corpus):
    (first,) = [job for job in http.get("/train-jobs").json()["jobs"] if job["name"] == "calm"]
    more = end_of(
        http, submit(http, corpus, name="more", initial_model="calm", architecture={}, seed=8)
    )
    assert more["status"] == "succeeded"
    assert more["initial_model"] == first["model"]
    assert more["architecture"]["units"] == SMALL["units"]
    assert more["best"]["validation_nats"] < first["best"]["validation_nats"]
    strange = upload(http, a_text(20_000) + "Ω" * 9)
    body = {"name": "x", "corpus": strange, "initial_model": "calm"}
    refused = http.post("/train-jobs", json=body)
    assert refused.status_code == 422
    assert "'Ω'" in refused.json()["error"]


@pytest.mark.tf
@pytest.mark.slow
def test_the_example_trains_on_chinese_and_streams(server, tmp_path):
    rng = random.Random(3)
    lines = [
        "明月几时有",
        "把酒问青天",
        "不知天上宫阙",
        "今夕是何年",
        "我欲乘风归去",
        "又恐琼楼玉宇",
    ]
    text = "\n".join(rng.choice(lines) for _ in range(20_000))
    file = tmp_path / "poem.txt"
    file.write_text(text)
    command = [sys.executable, str(ROOT / "docs/examples/train_over_http.py"), str(file)]
    options = {"url": server.url, "name": "poem", "units": "48", "layers": "1", "epochs": "2"}
    options |= {"embedding-dim": "16", "characters": "60"}
    done = subprocess.run(
        [*command, *(part for k, v in options.items() for part in (f"--{k}", v))],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) >= 60
    assert set(done.stdout) <= set(text)
    assert "bits a character" in done.stderr


def test_the_example_sends_its_key_with_each_request(tmp_path):
    file = tmp_path / "poem.txt"
    file.write_text("abc")
    token = '{"token": {"text": "a"}}'
    with scripted() as script:
        script.answers += [
            Answer(201, b'{"id": "c", "characters": 3}'),
            Answer(202, b'{"id": "j"}'),
            stream('event: done\ndata: {"status": "succeeded", "model": "poem@1"}'),
            stream(f"data: {token}"),
        ]
        example = str(ROOT / "docs/examples/train_over_http.py")
        done = subprocess.run(
            [sys.executable, example, str(file), "--url", script.url],
            capture_output=True,
            text=True,
            env=os.environ | {"CAROUSEL_API_KEY": "carousel_k"},
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, "a\n"), done.stderr
        sent = [headers.get("authorization") for _, headers, _ in script.requests]
    assert sent == ["Bearer carousel_k"] * 4


def test_the_server_answers_while_it_checks_a_large_text(http):
    text = ("明月几时有、把酒问青天\n" * 1_900_000).encode()
    with ThreadPoolExecutor() as pool:
        began = time.monotonic()
        uploading = pool.submit(http.post, "/corpora?name=large", content=text)
        longest = 0.0
        while not uploading.done():
            asked = time.monotonic()
            assert http.get("/health/live").status_code == 200
            longest = max(longest, time.monotonic() - asked)
            time.sleep(0.01)
        took = time.monotonic() - began
    assert uploading.result().status_code == 201
    assert longest < took / 5, (longest, took)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"abc a" + "\u0301\u0327".encode() * 60_000, "more than 30 combining marks"),
        ("abc\xff".encode("latin-1"), "byte 3 is 0xff"),
        (b"aaaa", "1 different characters in 4; it needs at least 2"),
        (b"", "0 different characters"),
    ],
)
def test_an_unusable_text_is_refused(http, content, sentence):
    reply = http.post("/corpora", params={"name": "x"}, content=content)
    assert reply.status_code == 422
    assert sentence in reply.json()["error"]


@pytest.mark.parametrize(
    ("change", "status", "sentence"),
    [
        ({"corpus": "0" * 32}, 404, "there is no corpus"),
        ({"corpus": "../../etc"}, 404, "there is no corpus"),
        ({"name": "No Name"}, 422, "is not a name"),
        ({"architecture": {"units": 10**9}}, 422, "`units` is 1000000000"),
        ({"training": {"epochs": 0}}, 422, "`epochs` is 0"),
        ({"training": {"batch_size": 4_000, "sequence_length": 50}}, 422, "needs 200,001"),
        ({"architecture": {"cell": "rnn"}}, 422, "cell"),
        ({"initial_model": "nobody"}, 404, "nobody"),
        ({"colour": "red"}, 422, "colour"),
    ],
)
def test_a_job_that_cannot_be_done_is_refused(http, corpus, change, status, sentence):
    body = {"name": "x", "corpus": corpus} | change
    reply = http.post("/train-jobs", json=body)
    assert (reply.status_code, sentence in reply.json()["error"]) == (status, True), reply.text


def test_an_unknown_job_is_404_on_every_route(http):
    for method, path in (
        ("GET", ""),
        ("GET", "/events"),
        ("POST", "/cancel"),
        ("POST", "/publish"),
    ):
        reply = http.request(method, f"/train-jobs/nobody{path}")
        assert (reply.status_code, reply.json()["error_type"]) == (404, "job_not_found")


def test_the_same_text_has_the_same_id_however_it_is_written(http):
    unix, windows = "one\ntwo\n" * 50, "one\r\ntwo\r\n" * 50
    first = http.post("/corpora", params={"name": "a"}, content=unix.encode()).json()
    second = http.post("/corpora", params={"name": "b"}, content=windows.encode()).json()
    assert first == second
