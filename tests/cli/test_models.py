"""`carousel list | load | unload | alias | rm`, with a running server and without one."""

import json
import shutil
import urllib.request

import pytest

from service.models.resolve import read_record, resolve_stored
from service.models.retention import Retention
from service.models.spec import ModelRef
from service.models.store import ModelStore
from tests.bundles import put_model
from tests.cli.commands import carousel, printed, refused
from tests.cli.test_import import WINDOWED
from tests.process import ROOT, free_port, serving


@pytest.fixture
def store(tmp_path) -> ModelStore:
    """demo@1, owl@1, owl@2; no record."""
    folder = tmp_path / "model_store"
    shutil.copytree(ROOT / "model_store" / "demo", folder / "demo")
    put_model(folder, "owl", weight=0.1)
    put_model(folder, "owl", weight=0.2, version=2)
    return ModelStore(folder)


def loaded_by(url: str) -> list[str]:
    with urllib.request.urlopen(f"{url}/admin/models") as reply:
        rows = json.load(reply)["models"]
    return [f"{row['name']}@{row['version']}" for row in rows if row["status"] == "ready"]


def test_names_without_a_version_and_aliases_are_resolved_in_the_store(store):
    assert resolve_stored(store, "owl") == ModelRef("owl", 2)
    assert resolve_stored(store, "owl@1") == ModelRef("owl", 1)
    assert resolve_stored(store, "default") == ModelRef("demo", 1)
    record = read_record(store)
    aliases = {"owl": ModelRef("owl", 1)}
    type(record)(record.loaded, aliases).write(store.folder)
    assert resolve_stored(store, "owl") == ModelRef("owl", 1)


def test_generate_score_and_export_take_a_name(store, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("abc\ncab")
    few = ("--max-new-tokens", 3, "--temperature", 0)
    by_name = printed("generate", "The", "--model", "demo", *few, folder=tmp_path)
    assert by_name == printed("generate", "The", *few, folder=tmp_path)
    assert by_name.startswith("The")
    assert "characters" in printed("score", text, "--model", "demo", folder=tmp_path)
    assert f"File exists: '{text}'" in refused("export", "demo", text, folder=tmp_path)
    put_model(store.folder, "window", WINDOWED)
    short = refused("generate", "abca", "--model", "window", folder=tmp_path)
    assert "5 tokens" in short
    sentence = refused("generate", "a", "--model", "cat", folder=tmp_path)
    assert f"no model or alias 'cat' is stored in {store.folder}; there are: default, demo@1" in (
        sentence
    )


def test_the_list_has_every_version_and_what_a_start_loads(store, tmp_path):
    (store.path(ModelRef("owl", 1)) / "manifest.json").write_text("{")
    rows = json.loads(printed("list", "--json", folder=tmp_path))
    assert [row["model"] for row in rows] == ["demo@1", "owl@1", "owl@2"]
    demo, damaged, owl = rows
    assert (demo["aliases"], demo["loaded_at_start"]) == (["default"], True)
    assert (damaged["architecture"], damaged["loaded_at_start"]) == (None, False)
    assert owl == owl | {
        "architecture": "OneHot(3) → LSTM(2) → Dense(3)",
        "tokens": 3,
        "tokenizer": "characters",
        "state": "carried",
        "precision": "float32",
        "loaded_at_start": True,
        "aliases": [],
    }
    assert owl["bytes"] > 1000
    table = printed("list", folder=tmp_path).splitlines()
    assert [line.split()[0] for line in table] == ["model", "demo@1", "owl@1", "owl@2"]
    assert "its manifest cannot be read" in table[2]
    place = table[0].index("loaded at start")
    assert [line[place:].split()[0] for line in table[1:]] == ["yes", "no", "yes"]


def test_without_a_server_the_record_has_what_the_next_start_loads(store, tmp_path):
    offline = {"folder": tmp_path}
    assert "the next server on" in printed("unload", "owl", "--offline", **offline)
    assert read_record(store).loaded == (ModelRef("demo", 1),)
    again = printed("unload", "owl", "--offline", **offline)
    assert "does not load owl@2 anyway: nothing is changed" in again
    assert "loads owl@1" in printed("load", "owl@1", "--offline", **offline)
    assert read_record(store).loaded == (ModelRef("demo", 1), ModelRef("owl", 1))
    assert "loads owl@1" in printed("load", "owl@1", "--pin", "--offline", **offline)
    assert read_record(store).retentions == {ModelRef("owl", 1): Retention(pin=True)}
    out = printed("alias", "writer", "owl", "--offline", **offline)
    assert read_record(store).retentions == {ModelRef("owl", 1): Retention(pin=True)}
    assert "has writer as owl@2; `carousel load owl@2` has it loaded too" in out
    assert dict(read_record(store).aliases) == {
        "default": ModelRef("demo", 1),
        "writer": ModelRef("owl", 2),
    }
    with serving(tmp_path) as server:
        assert loaded_by(server.url) == ["demo@1", "owl@1"]
    sentence = refused("alias", "No", "owl", "--offline", **offline)
    assert "'No' is not a name" in sentence


@pytest.mark.usefixtures("store")
def test_a_time_that_is_none_is_refused_without_a_server_too(tmp_path):
    said = refused("load", "owl", "--keep-alive-s", "-0.5", "--offline", folder=tmp_path)
    assert "give seconds from 0 on, or -1" in said


def test_a_server_that_is_named_and_does_not_answer_is_no_reason_to_write_the_record(
    store, tmp_path
):
    url = f"http://127.0.0.1:{free_port()}"
    for command in (("load", "owl"), ("unload", "owl"), ("alias", "a", "owl"), ("rm", "owl@1")):
        assert f"no server answers at {url}" in refused(*command, "--url", url, folder=tmp_path)
    assert "is not the URL of a server" in refused("load", "owl", "--url", "here", folder=tmp_path)
    assert not (store.folder / "registry.json").exists()
    assert len(store.refs()) == 3


def test_a_running_server_loads_unloads_and_aliases(store, tmp_path):
    with serving(tmp_path) as server:
        on = ("--url", server.url)
        assert printed("unload", "owl", *on, folder=tmp_path).startswith("owl@2 is unloaded")
        assert loaded_by(server.url) == ["demo@1"]
        for name in ("owl", "owl@2"):
            again = printed("unload", name, *on, folder=tmp_path)
            assert again.startswith(f"owl@2 is not loaded by the server at {server.url}: nothing")
        assert "no model, version or alias" in refused("unload", "cat", *on, folder=tmp_path)
        assert printed("load", "owl@1", *on, folder=tmp_path).startswith("owl@1 is loaded by")
        assert printed("load", "owl", *on, folder=tmp_path).startswith("owl@2 is loaded by")
        assert loaded_by(server.url) == ["demo@1", "owl@1", "owl@2"]
        printed("load", "owl", "--pin", *on, folder=tmp_path)
        assert read_record(store).retentions == {ModelRef("owl", 2): Retention(pin=True)}
        printed("load", "owl", "--no-pin", *on, folder=tmp_path)
        assert read_record(store).retentions == {}
        timed = refused("load", "owl", "--keep-alive-s", "60", *on, folder=tmp_path)
        assert "set CAROUSEL_AUTOLOAD=true" in timed
        out = printed("alias", "writer", "owl@1", *on, folder=tmp_path)
        assert out == f"writer is owl@1 in the server at {server.url}, for new requests\n"
        assert "refuses: no model, version or alias is called 'cat'" in refused(
            "load", "cat", *on, folder=tmp_path
        )

        assert "has the alias writer of it" in refused("rm", "owl@1", *on, folder=tmp_path)
        assert "has loaded it; `carousel unload owl@2`" in refused(
            "rm", "owl@2", "--yes", *on, folder=tmp_path
        )
        assert len(store.refs()) == 3
        printed("unload", "owl@2", *on, folder=tmp_path)
        assert printed("rm", "owl@2", "--yes", *on, folder=tmp_path) == "deleted owl@2\n"
        assert store.refs() == [ModelRef("demo", 1), ModelRef("owl", 1)]
        with urllib.request.urlopen(f"{server.url}/admin/models") as reply:
            assert len(json.load(reply)["models"]) == 2


def test_a_model_is_deleted_after_a_yes_and_a_name_of_several_versions_is_refused(store, tmp_path):
    offline = ("--offline",)
    sentence = refused("rm", "owl", "--yes", *offline, folder=tmp_path)
    assert sentence == "owl has 2 versions: name one (owl@1, owl@2), or give --all"
    assert "no model 'cat' is stored" in refused("rm", "cat", *offline, folder=tmp_path)
    kept = carousel("rm", "owl@1", *offline, folder=tmp_path, stdin="n\n")
    assert (kept.returncode, "nothing is deleted" in kept.stdout) == (1, True)
    assert len(store.refs()) == 3
    assert "deleted owl@1" in printed("rm", "owl@1", *offline, folder=tmp_path, stdin="y\n")
    assert "deleted owl@2" in printed("rm", "owl", "--yes", *offline, folder=tmp_path)
    out = printed("rm", "demo", "--all", "--yes", *offline, folder=tmp_path)
    assert out == "the alias default of demo@1 goes with it\ndeleted demo@1\n"
    assert "no model is stored in" in printed("list", folder=tmp_path)
