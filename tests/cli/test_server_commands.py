"""`carousel jobs | sessions | models` against a running server without workers."""

import json
import os
import shutil
import time
import urllib.request
from collections.abc import Iterator

import pytest

from service.models.resolve import read_record
from service.models.spec import ModelRef
from service.models.store import ModelStore
from tests.cli.commands import carousel, printed, refused
from tests.process import ROOT, Server, free_port, serving

TEXT = "the owl and the cat sat in the oak\n" * 400


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(ROOT / "model_store" / "demo", folder / "model_store" / "demo")
    return folder


@pytest.fixture(scope="module")
def server(home) -> Iterator[Server]:
    with serving(home) as running:
        yield running


def test_a_job_from_submission_to_deletion(server, home):
    (home / "text.txt").write_text(TEXT)
    to = ("--url", server.url)
    job = printed(
        *("jobs", "submit", home / "text.txt", "--name", "owl", "--units", 64, "--layers", 1),
        *("--queue", "train-gpu", *to),
        folder=home,
    ).strip()
    rows = json.loads(printed("jobs", "list", "--json", *to, folder=home))
    assert [row["id"] for row in rows] == [job]
    assert rows[0]["architecture"]["units"] == 64
    assert rows[0]["queue"] == "train-gpu"
    lines = printed("jobs", "list", *to, folder=home).splitlines()
    assert lines[0].split()[:3] == ["id", "status", "name"]
    assert lines[1].split()[:3] == [job, "queued", "owl"]
    assert "is not over; cancel it" in refused("jobs", "rm", job, *to, folder=home)
    assert printed("jobs", "cancel", job, *to, folder=home) == f"{job} is cancelled\n"
    followed = carousel("jobs", "follow", job, *to, folder=home)
    assert (followed.returncode, followed.stderr) == (1, "")
    assert followed.stdout.splitlines()[-1].startswith("done: status='cancelled'")
    assert json.loads(printed("jobs", "show", job, *to, folder=home))["status"] == "cancelled"
    assert printed("jobs", "rm", job, *to, folder=home) == f"deleted {job}\n"
    assert printed("jobs", "list", *to, folder=home) == "there are no train jobs\n"
    assert f"there is no train job '{job}'" in refused("jobs", "show", job, *to, folder=home)


def test_sessions_are_listed_read_and_deleted(server, home):
    to, ids = ("--url", server.url), []
    for n in range(3):
        body = json.dumps({"text": f"def f{n}"}).encode()
        request = urllib.request.Request(
            f"{server.url}/sessions", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as reply:
            ids.append(json.load(reply)["id"])
    rows = json.loads(printed("sessions", "list", "--json", *to, folder=home))
    assert [row["id"] for row in rows] == ids[::-1]
    lines = printed("sessions", "list", "--limit", 2, *to, folder=home).splitlines()
    assert [line.split()[0] for line in lines] == ["id", ids[2], ids[1]]
    assert printed("sessions", "text", ids[1], *to, folder=home) == "def f1\n"
    shown = json.loads(printed("sessions", "show", ids[0], *to, folder=home))
    assert (shown["id"], shown["position"]) == (ids[0], len("def f0"))
    for one in ids:
        printed("sessions", "rm", one, *to, folder=home)
    assert printed("sessions", "list", *to, folder=home) == "there are no sessions\n"
    assert "no server answers at http://127.0.0.1:" in refused(
        "sessions", "list", "--url", f"http://127.0.0.1:{free_port()}", folder=home
    )


def test_usage_is_listed_by_day(server, home):
    body = json.dumps({"inputs": "def ", "parameters": {"max_new_tokens": 7}}).encode()
    request = urllib.request.Request(
        f"{server.url}/generate", body, {"Content-Type": "application/json"}
    )
    urllib.request.urlopen(request).close()
    to, until = ("--url", server.url), time.monotonic() + 30
    while not (rows := json.loads(printed("usage", "--json", *to, folder=home))):
        assert time.monotonic() < until
    assert rows[-1]["generated_tokens"] >= 7
    head = printed("usage", *to, folder=home).splitlines()[0]
    assert head.split()[:3] == ["day", "owner", "requests"]
    assert printed("usage", "--owner", "nobody", *to, folder=home) == "nothing was used\n"
    assert "refuses" in refused("usage", "--from", "soon", *to, folder=home)


def test_a_model_is_aliased_and_pinned_by_the_server(server, home):
    to = ("--url", server.url)
    printed("models", "alias", "writer", "demo@1", *to, folder=home)
    said = printed("models", "unalias", "writer", *to, folder=home)
    assert said == f"writer is no alias any more in the server at {server.url}\n"
    assert "there is no alias 'writer'" in refused("models", "unalias", "writer", *to, folder=home)
    assert "demo@1 stays in memory of" in printed("models", "pin", "demo", *to, folder=home)
    said = printed("models", "pin", "demo", "--off", *to, folder=home)
    assert said == f"demo@1 may leave the memory of the server at {server.url}\n"


def test_a_model_is_aliased_and_pinned_without_a_server(tmp_path):
    shutil.copytree(ROOT / "model_store" / "demo", tmp_path / "model_store" / "demo")
    store = ModelStore(tmp_path / "model_store")
    printed("models", "alias", "writer", "demo@1", "--offline", folder=tmp_path)
    printed("models", "pin", "demo", "--offline", folder=tmp_path)
    record = read_record(store)
    assert record.aliases["writer"] == ModelRef("demo", 1)
    assert record.retentions[ModelRef("demo", 1)].pin
    said = printed("models", "unalias", "writer", "--offline", folder=tmp_path)
    assert said == f"the next server on {store.folder} has no alias writer\n"
    printed("models", "pin", "demo", "--off", "--offline", folder=tmp_path)
    record = read_record(store)
    assert "writer" not in record.aliases
    assert not any(one.pin for one in record.retentions.values())
    assert "has no alias 'writer'" in refused(
        "models", "unalias", "writer", "--offline", folder=tmp_path
    )
    one, other = (printed(*words, folder=tmp_path) for words in (["list"], ["models", "list"]))
    assert one == other
    assert os.linesep in one
