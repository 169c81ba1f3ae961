"""Models come and go while the server runs."""

import contextlib
import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import httpx2
import numpy as np
import pytest
from starlette.datastructures import FormData, UploadFile

from service.api.admin import _upload_body
from tests.api.conftest import new_home
from tests.process import serving

VOCABULARY = "abcdefgh \n"
LARGE = "large.weights.h5"
WHERE = "; the import folder is the server's CAROUSEL_IMPORT_DIR, by default imports/"


def weights_h5(path: Path, seed: int = 1, units: int = 6) -> None:
    """A Keras 3 `.weights.h5` of Embedding(10, 4) → LSTM(units) → Dense(10)."""
    rng = np.random.default_rng(seed)
    shapes = {
        "layers/embedding/vars/0": (10, 4),
        "layers/lstm/cell/vars/0": (4, 4 * units),
        "layers/lstm/cell/vars/1": (units, 4 * units),
        "layers/lstm/cell/vars/2": (4 * units,),
        "layers/dense/vars/0": (units, 10),
        "layers/dense/vars/1": (10,),
    }
    with h5py.File(path, "w") as file:
        for name, shape in shapes.items():
            file[name] = rng.standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = new_home(tmp_path_factory.mktemp("admin"))
    weights_h5(home / "imports" / "small.weights.h5")
    (home / "imports" / "vocabulary.json").write_text(json.dumps(list(VOCABULARY)))
    (home / "imports" / "short.json").write_text('["a", "b"]')
    (home / "imports" / "broken.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 100)
    return home


@pytest.fixture(scope="module")
def admin(home) -> Iterator[httpx2.Client]:
    with serving(home) as server, httpx2.Client(base_url=server.url, timeout=60) as client:
        yield client


def imported(admin, name: str, **fields) -> httpx2.Response:
    body = {"source": "small.weights.h5", "vocabulary": "vocabulary.json", "name": name}
    return admin.post("/admin/models", json=body | fields)


def text_of(admin, model: str, n: int = 8) -> httpx2.Response:
    body = {"inputs": "abc", "model": model, "parameters": {"max_new_tokens": n}}
    return admin.post("/generate", json=body)


def row_of(admin, name: str, version: int = 1) -> dict:
    rows = admin.get("/admin/models").json()["models"]
    return next(row for row in rows if (row["name"], row["version"]) == (name, version))


def test_a_checkpoint_becomes_a_model_that_answers(admin):
    reply = imported(admin, "first", alias="writers")
    assert reply.status_code == 201
    row = reply.json()
    assert row["status"] == "ready"
    assert row["architecture"] == "Embedding(10, 4) → LSTM(6) → Dense(10)"
    assert row["parity"]["tokens"] == 256
    assert row["parity"]["largest_logit_difference"]["float32"] < 1e-4
    assert any("recurrent_activation" in assumption for assumption in row["assumptions"])
    assert text_of(admin, "first").json() == text_of(admin, "writers").json()
    assert row.pop("fleet") == {
        "revision": 0,
        "processes": [],
    }  # this server shares its store with none
    assert row == row_of(admin, "first")


def test_the_next_version_is_taken_and_an_old_one_never_replaced(admin):
    assert imported(admin, "counted").json()["version"] == 1
    assert imported(admin, "counted").json()["version"] == 2
    again = imported(admin, "counted", version=2)
    assert again.status_code == 422
    assert "versions never change" in again.json()["error"]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"source": "broken.h5"}, "bad_checkpoint"),
        ({"vocabulary": "short.json"}, "bad_checkpoint"),
        ({"source": "absent.h5"}, "validation"),
        ({"source": "../../../etc/passwd"}, "validation"),
        ({"source": "/etc/passwd"}, "validation"),
        ({"config": "../../etc/passwd"}, "validation"),
        ({"name": "No Name"}, "validation"),
        ({"alias": "../x"}, "validation"),
        ({"assume": {"colour": "red"}}, "validation"),
        ({"precision": "int4"}, "validation"),
    ],
)
def test_what_cannot_be_imported_is_refused_and_the_rest_serves_on(admin, fields, code):
    reply = imported(admin, **({"name": "refused"} | fields))
    assert (reply.status_code, reply.json()["error_type"]) == (422, code)
    body = {"inputs": "The ", "parameters": {"max_new_tokens": 3}}
    assert admin.post("/generate", json=body).status_code == 200
    assert all(row["name"] != "refused" for row in admin.get("/admin/models").json()["models"])


BAD_PATHS = [
    ({"source": "absent.h5"}, "source: absent.h5 is not in the import folder"),
    ({"source": "../x.h5"}, "source is '../x.h5'; it must be a path under"),
    ({"source": "/etc/passwd"}, "source is '/etc/passwd'; it must be a path under"),
    ({"source": "link.h5"}, "'link.h5' in link.h5 is a symbolic link"),
    ({"source": "short.json/x"}, "'short.json' in short.json/x is not a folder"),
    ({"source": "x" * 300}, "cannot be read: File name too long"),
    ({"vocabulary": "absent"}, "vocabulary: absent is not in the import folder"),
    ({"vocabulary": "."}, "vocabulary: . is a folder; name a file"),
    ({"vocabulary_text": "a/b"}, "vocabulary_text: a/b is not in the"),
    ({"config": "absent"}, "config: absent is not in the import folder"),
    ({"source": "index"}, "source: index is not in the import folder"),
]


def test_a_bad_path_is_refused_while_an_import_runs(admin, home):
    (home / "imports" / "link.h5").symlink_to("small.weights.h5")
    weights_h5(home / "imports" / LARGE, units=1_500)
    large = threading.Thread(target=imported, args=(admin, "large"), kwargs={"source": LARGE})
    large.start()
    until = time.monotonic() + 30
    while not (running := list((home / "model_store").glob(".importing-*"))):
        assert time.monotonic() < until
        time.sleep(0.01)
    refused = [imported(admin, "refused", **fields).json() for fields, _ in BAD_PATHS]
    upload = {"name": "refused", "source": "absent.h5"}
    files = {"vocabulary": ("v", b"[]")}
    uploaded = admin.post("/admin/models/upload", files=files, data=upload).json()
    assert running[0].exists()
    large.join()
    for reply, (_, sentence) in zip(refused, BAD_PATHS, strict=True):
        assert reply["error_type"] == "validation"
        assert sentence in reply["error"]
        assert reply["error"].endswith(WHERE)
    assert uploaded["error"] == (
        "source: absent.h5 is not in the import folder; the upload's own files are meant"
    )


def test_an_import_folder_that_is_gone_is_named(tmp_path):
    home = new_home(tmp_path)
    with serving(home) as server, httpx2.Client(base_url=server.url) as admin:
        (home / "imports").rmdir()
        reply = imported(admin, "refused")
    wanted = f"source: the import folder is not there{WHERE}"
    assert (reply.status_code, reply.json()["error"]) == (422, wanted)


def test_a_model_goes_and_comes_back(admin):
    imported(admin, "guest")
    before = text_of(admin, "guest").json()
    assert admin.post("/admin/models/guest@1/unload").json()["status"] == "stored"
    gone = text_of(admin, "guest")
    assert (gone.status_code, gone.json()["error_type"]) == (409, "model_unloaded")
    back = admin.post("/admin/models/guest@1/load", json={"precision": "int8"}).json()
    assert (back["status"], back["precision"]) == ("ready", "int8")
    assert admin.post("/admin/models/guest@1/load", json={"precision": "float32"}).is_success
    assert text_of(admin, "guest").json() == before


def test_only_an_unused_model_can_be_deleted(admin):
    imported(admin, "doomed", alias="pointer")
    for _ in range(2):
        reply = admin.delete("/admin/models/doomed@1")
        assert (reply.status_code, reply.json()["error_type"]) == (409, "model_in_use")
        admin.post("/admin/models/doomed@1/unload")
    admin.put("/admin/aliases/pointer", json={"model": "demo@1"})
    assert admin.delete("/admin/models/doomed@1").status_code == 204
    assert admin.delete("/admin/models/doomed@1").status_code == 404


def test_unloading_lets_what_runs_end(admin):
    imported(admin, "busy")
    body = {"inputs": "abc", "model": "busy", "parameters": {"max_new_tokens": 20_000}}
    with admin.stream("POST", "/generate_stream", json=body) as stream:
        lines = stream.iter_lines()
        next(lines)
        admin.post("/admin/models/busy@1/unload").raise_for_status()
        text = "\n".join(lines)
    assert '"finish_reason": "length"' in text
    until = time.monotonic() + 30
    while row_of(admin, "busy")["status"] == "draining":
        assert time.monotonic() < until
        time.sleep(0.02)
    assert row_of(admin, "busy")["status"] == "stored"


def test_an_alias_is_removed_and_its_model_stays(admin):
    imported(admin, "aliased", alias="short-lived").raise_for_status()
    assert admin.delete("/admin/aliases/short-lived").status_code == 204
    listing = admin.get("/admin/models").json()
    assert "short-lived" not in listing["aliases"]
    assert "aliased" in [row["name"] for row in listing["models"]]
    for path in ("short-lived", "aliased@1"):  # a name is no alias
        refused = admin.delete(f"/admin/aliases/{path}")
        assert (refused.status_code, refused.json()["error_type"]) == (404, "model_not_found")
    assert (
        "there is no alias 'short-lived'; there are: "
        in admin.delete("/admin/aliases/short-lived").json()["error"]
    )


def test_an_alias_moves_without_a_gap(admin):
    imported(admin, "left", alias="turning")
    imported(admin, "right")
    stop, failures = threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            reply = text_of(admin, "turning", 2)
            if not reply.is_success:
                failures.append(reply.text)

    asker = threading.Thread(target=ask)
    asker.start()
    for target in ("right", "left") * 10:
        admin.put("/admin/aliases/turning", json={"model": target}).raise_for_status()
    stop.set()
    asker.join()
    assert not failures


def test_an_upload_is_an_import(admin, home):
    files = {
        "source": ("small.weights.h5", (home / "imports" / "small.weights.h5").read_bytes()),
        "vocabulary": ("vocabulary.json", (home / "imports" / "vocabulary.json").read_bytes()),
    }
    reply = admin.post("/admin/models/upload", files=files, data={"name": "uploaded"})
    assert reply.status_code == 201, reply.text
    assert text_of(admin, "uploaded").is_success
    assert not list((home / "imports").glob(".upload*"))


def test_every_file_of_an_upload_is_a_field_of_the_import():
    names = {"source": "m.h5", "vocabulary": "v.json", "vocabulary_text": "t", "config": "c.json"}
    parts = [(field, UploadFile(io.BytesIO(b"x"), filename=f"x/{n}")) for field, n in names.items()]
    body = _upload_body(FormData([*parts, ("name", "m"), ("assume", '{"unknown_token": "?"}')]))
    assert body.model_dump(include=set(names)) == names
    assert body.assume == {"unknown_token": "?"}


def test_an_upload_cannot_choose_where_it_is_written(admin, home):
    files = {"source": ("../../evil.h5", b"x"), "vocabulary": (".hidden", b"[]")}
    reply = admin.post("/admin/models/upload", files=files, data={"name": "evil"})
    assert reply.status_code == 422
    assert not list(home.rglob("evil.h5"))
    assert not list((home / "imports").glob(".upload*"))


@pytest.mark.slow
def test_a_restart_serves_what_was_served(tmp_path):
    home = new_home(tmp_path)
    weights_h5(home / "imports" / "small.weights.h5")
    (home / "imports" / "vocabulary.json").write_text(json.dumps(list(VOCABULARY)))
    texts = []
    for _ in range(2):
        with serving(home) as server, httpx2.Client(base_url=server.url, timeout=60) as admin:
            if not texts:
                imported(admin, "kept", alias="default").raise_for_status()
            texts.append(text_of(admin, "default").json())
    assert texts[0] == texts[1]


def test_a_damaged_bundle_fails_alone(tmp_path):
    home = new_home(tmp_path)
    weights = home / "model_store" / "awkward" / "1" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with serving(home) as server, httpx2.Client(base_url=server.url) as admin:
        row = row_of(admin, "awkward")
        assert row["status"] == "failed"
        assert "not the file that the manifest describes" in row["error"]
        assert text_of(admin, "awkward").status_code == 503
        body = {"inputs": "The ", "parameters": {"max_new_tokens": 3}}
        assert admin.post("/generate", json=body).is_success
        with contextlib.suppress(httpx2.HTTPError):
            admin.post("/admin/models/awkward@1/load")
        assert admin.get("/health").is_success
