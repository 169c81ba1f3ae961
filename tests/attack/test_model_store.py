"""A folder of models that is damaged, read-only or full: what is good is served, and it is said."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.api.conftest import new_home
from tests.bundles import put_model
from tests.models.importing.keras_writer import write_archive, write_keras_3_weights
from tests.process import Server, serving

GOOD = {"inputs": "The ", "parameters": {"max_new_tokens": 3}}


def rows(server: Server) -> dict[str, dict[str, Any]]:
    reply = httpx2.get(f"{server.url}/admin/models", timeout=30)
    assert reply.status_code == 200, reply.text
    return {f"{row['name']}@{row['version']}": row for row in reply.json()["models"]}


def generates(server: Server, **more: Any) -> httpx2.Response:
    return httpx2.post(f"{server.url}/generate", json=GOOD | more, timeout=30)


def changed(manifest: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(manifest.read_text())
    change(content)
    manifest.write_text(json.dumps(content))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "layers": lambda path: changed(path, lambda m: m["architecture"].update(layers=5)),
    "no json": lambda path: path.write_text("{"),
    "nested": lambda path: path.write_text("[" * 200_000),
    "no text": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "units": lambda path: changed(path, lambda m: m["architecture"]["layers"][0].update(units={})),
    "huge": lambda path: changed(path, lambda m: m["architecture"].update(vocabulary_size=10**30)),
    "empty": lambda path: path.write_text(""),
}


def test_damaged_manifests_fail_alone_with_their_reason(tmp_path):
    store = new_home(tmp_path) / "model_store"
    for i, damage in enumerate(DAMAGES.values()):
        put_model(store, f"bad{i}")
        damage(store / f"bad{i}" / "1" / "manifest.json")
    with serving(tmp_path) as server:
        found = rows(server)
        assert found["demo@1"]["status"] == "ready"
        for i, name in enumerate(DAMAGES):
            row = found[f"bad{i}@1"]
            assert row["status"] == "failed", name
            assert row["error"], name
            loaded = httpx2.post(f"{server.url}/admin/models/bad{i}@1/load", timeout=30)
            assert loaded.status_code == 422, (name, loaded.text)
        assert generates(server).is_success
        assert rows(server)["bad0@1"]["status"] == "failed"
        assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ("[" * 200_000, "cannot be read"),
        ('{"aliases": {}, "loaded": [1, 2]}', "cannot be read"),
        ('{"aliases": [], "loaded": {}}', "cannot be read"),
        ('{"aliases": {"default": "gone@1"}, "loaded": ["gone@1"]}', "not stored: gone@1"),
        ('{"aliases": {"default": "demo@9"}, "loaded": ["demo@1"]}', "default -> demo@9"),
        ('{"aliases": {"default": "demo@1"}, "loaded": ["demo@1", "gone@2"]}', "gone@2"),
    ],
)
def test_a_damaged_record_is_said_and_survived(tmp_path, record, said):
    store = new_home(tmp_path) / "model_store"
    shutil.rmtree(store / "awkward")
    (store / "registry.json").write_text(record)
    with serving(tmp_path) as server:
        assert said in server.log.read_text()
        assert generates(server, model="demo").is_success
        if "{}" not in record:
            assert generates(server).is_success, "the default is one that is stored"


def test_a_bad_newest_version_leaves_an_older_one_to_serve(tmp_path):
    store = new_home(tmp_path) / "model_store"
    shutil.rmtree(store / "awkward")
    shutil.copytree(store / "demo" / "1", store / "demo" / "2")
    changed(store / "demo" / "2" / "manifest.json", lambda manifest: manifest.update(version=2))
    (store / "demo" / "2" / "weights.safetensors").write_bytes(b"nonsense")
    (store / "registry.json").unlink()
    with serving(tmp_path) as server:
        found = rows(server)
        assert found["demo@2"]["status"] == "failed"
        assert "weights.safetensors is not the file" in found["demo@2"]["error"]
        assert found["demo@1"]["status"] == "ready"
        assert generates(server, model="demo").is_success
        assert generates(server).is_success
        assert "demo@1 is served: demo@2, which is newer, cannot be loaded" in (
            server.log.read_text()
        )


def test_a_folder_that_was_copied_is_refused_and_not_served_under_two_names(tmp_path):
    store = new_home(tmp_path) / "model_store"
    shutil.copytree(store / "demo", store / "mine")
    with serving(tmp_path) as server:
        row = rows(server)["mine@1"]
        assert row["status"] == "failed"
        assert "the folder mine/1 has demo@1" in row["error"]
        loaded = httpx2.post(f"{server.url}/admin/models/mine@1/load", timeout=30)
        assert (loaded.status_code, loaded.json()["error_type"]) == (422, "bad_checkpoint")
        assert rows(server)["demo@1"]["status"] == "ready"


def test_an_alias_does_not_hide_a_model(tmp_path):
    with serving(new_home(tmp_path)) as server:
        path = f"{server.url}/admin/aliases/awkward"
        refused = httpx2.put(path, json={"model": "demo@1"}, timeout=30)
        assert refused.status_code == 422
        assert "'awkward' is the name of a stored model" in refused.json()["error"]
        httpx2.put(f"{server.url}/admin/aliases/prod", json={"model": "demo@1"}, timeout=30)
        (tmp_path / "imports" / "a.h5").write_bytes(b"x")
        for body, sentence in (
            ({"source": "a.h5", "name": "prod"}, "'prod' is an alias"),
            ({"source": "a.h5", "name": "new", "alias": "demo"}, "name of a stored model"),
            ({"source": "a.h5", "name": "new", "alias": "new"}, "the name of the model"),
        ):
            reply = httpx2.post(f"{server.url}/admin/models", json=body, timeout=30)
            assert (reply.status_code, sentence in reply.json()["error"]) == (422, True), reply.text


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A disk of two megabytes, where this user may mount one."""
    folder = tmp_path / "model_store"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("this user may not mount a disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def large_weights(imports: Path) -> dict[str, str]:
    """A checkpoint whose weights have three megabytes."""
    units, tokens = 420, 3
    shapes = {
        "lstm.weight_ih_l0": (4 * units, tokens),
        "lstm.weight_hh_l0": (4 * units, units),
        "lstm.bias_ih_l0": (4 * units,),
        "lstm.bias_hh_l0": (4 * units,),
        "fc.weight": (tokens, units),
        "fc.bias": (tokens,),
    }
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    save_file(arrays, imports / "a.safetensors")
    (imports / "v.json").write_text('["a", "b", "c"]')
    return {"source": "a.safetensors", "name": "large", "vocabulary": "v.json"}


def large_archive(imports: Path) -> dict[str, str]:
    """An archive whose weights are unpacked to a file of three megabytes."""
    weights = write_keras_3_weights(imports / "w.h5").read_bytes() + bytes(3_000_000)
    write_archive(imports / "a.keras", {"model.weights.h5": weights})
    (imports / "v.json").write_text('["a", "b", "c"]')
    return {"source": "a.keras", "name": "large", "vocabulary": "v.json"}


def test_a_read_only_store_refuses_changes_with_a_type(tmp_path, disk):
    (tmp_path / "imports").mkdir()
    put_model(disk, "tiny")
    body = large_weights(tmp_path / "imports")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with serving(tmp_path) as server:
        reply = httpx2.post(f"{server.url}/admin/models", json=body, timeout=60)
        assert (reply.status_code, reply.json()["error_type"]) == (503, "store_unavailable")
        assert "the model store may not be written" in reply.json()["error"]
        assert httpx2.post(f"{server.url}/admin/models/tiny@1/unload", timeout=30).is_success
        assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("make", [large_weights, large_archive])
def test_an_import_onto_a_full_disk_says_so(tmp_path, disk, make):
    (tmp_path / "imports").mkdir()
    put_model(disk, "tiny")
    body = make(tmp_path / "imports")
    with serving(tmp_path) as server:
        reply = httpx2.post(f"{server.url}/admin/models", json=body, timeout=60)
        assert (reply.status_code, reply.json()["error_type"]) == (507, "store_full"), reply.text
        assert rows(server).keys() == {"tiny@1"}
        assert not [path for path in disk.iterdir() if path.name.startswith(".")]
        assert "Traceback" not in server.log.read_text()
