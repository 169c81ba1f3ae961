"""The wheel: what is in it, what it asks for, and a server that talks in an empty environment."""

import contextlib
import email
import os
import signal
import subprocess
import sys
import sysconfig
import time
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import httpx2
import pytest

from service import __version__
from service.models.bundled import add_bundled_models
from service.models.spec import ModelRef
from service.models.store import ModelStore
from tests.bundles import put_model
from tests.process import ROOT, START_LIMIT_S, environment, free_port

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def metadata(wheel) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (one for one in archive.namelist() if one.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def test_it_runs_on_every_system_and_is_called_as_the_version(wheel):
    assert wheel.name == f"carousel_serve-{__version__}-py3-none-any.whl"


def test_it_has_every_file_of_the_package_and_the_demo_model(names):
    tracked = subprocess.check_output(["git", "ls-files", "service"], cwd=ROOT, text=True)
    files = {name for name in tracked.split() if (ROOT / name).exists()}
    assert files <= names
    demo = {f"service/bundled_models/demo/1/{f.name}" for f in ROOT.glob("model_store/demo/1/*")}
    assert len(demo) == 4
    assert demo <= names


def test_it_says_from_which_commit_it_was_built(wheel):
    words = ["git", "rev-parse", "--short=12", "HEAD"]
    with zipfile.ZipFile(wheel) as archive:
        built = archive.read("service/commit.txt").decode()
    assert built == subprocess.check_output(words, cwd=ROOT, text=True)


def test_it_has_nothing_else(names):
    tops = {name.split("/")[0] for name in names}
    assert tops == {"service", f"carousel_serve-{__version__}.dist-info"}
    assert not [name for name in names if "__pycache__" in name]


def test_it_asks_for_what_the_project_names(metadata):
    asked = metadata.get_all("Requires-Dist")
    plain = [one for one in asked if "extra ==" not in one]
    assert len(plain) == len(PROJECT["dependencies"])
    assert not [one for one in plain if one.startswith(("tensorflow", "keras", "opentelemetry"))]
    assert set(metadata.get_all("Provides-Extra")) == {"cpu", "gpu", "otel", "ray", "train"}
    assert metadata["Requires-Python"] == "<3.14,>=3.11"
    train = [one for one in asked if "extra == 'train'" in one]
    assert train == ["carousel-serve[cpu]; extra == 'train'"] or any(
        one.startswith("tensorflow") for one in train
    )
    assert any(one.startswith("tensorflow-cpu") and "'cpu'" in one for one in asked)


def test_the_command_is_carousel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (one for one in archive.namelist() if one.endswith("entry_points.txt"))
        assert "carousel = service.__main__:main" in archive.read(name).decode()


# -- installed


@pytest.fixture(scope="module")
def carousel(wheel, tmp_path_factory) -> Path:
    """Return the command of a new environment, which has the wheel and our dependencies."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--quiet"]
    subprocess.run([*pip, "--disable-pip-version-check", "--no-index", str(wheel)], check=True)
    (site,) = folder.glob("lib/python3*/site-packages")
    ours = sysconfig.get_paths()["purelib"]
    (site / "dependencies.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    return folder / "bin" / "carousel"


@contextlib.contextmanager
def served(carousel: Path, home: Path, *arguments: str) -> Iterator[str]:
    """Serve from an empty folder, as after `pip install`, with the settings' defaults."""
    port = free_port()
    set_here = ("CAROUSEL_MODEL_STORE", "CAROUSEL_IMPORT_DIR", "CAROUSEL_DATA_DIR")
    env = {k: v for k, v in environment(home, port).items() if k not in set_here}
    env.pop("PYTHONPATH", None)
    with (
        (home / "server.log").open("wb") as log,
        subprocess.Popen(
            [str(carousel), "serve", *arguments],
            env=env,
            cwd=home,
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        url, until = f"http://127.0.0.1:{port}", time.monotonic() + START_LIMIT_S
        try:
            while time.monotonic() < until and process.poll() is None:
                with contextlib.suppress(httpx2.HTTPError):
                    if httpx2.get(f"{url}/health/ready").status_code == 200:
                        break
                time.sleep(0.1)
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()


def test_an_installed_server_talks_at_once(carousel, tmp_path):
    version = subprocess.check_output([str(carousel), "--version"], cwd=tmp_path, text=True)
    assert __version__ in version
    with served(carousel, tmp_path) as url:
        body = {"inputs": "The ", "parameters": {"max_new_tokens": 20, "seed": 1}}
        reply = httpx2.post(f"{url}/generate", json=body)
        assert reply.status_code == 200, (tmp_path / "server.log").read_text()[-2_000:]
        assert len(reply.json()["generated_text"]) == 20
        (model,) = httpx2.get(f"{url}/v1/models/demo").json()["root"].split()
        assert model == "demo@1"
    assert (tmp_path / "model_store" / "demo" / "1" / "manifest.json").is_file()
    assert os.access(tmp_path / "model_store" / "demo" / "1", os.W_OK)


# -- which stores get the demo model


@pytest.fixture
def bundled(tmp_path) -> Path:
    put_model(tmp_path / "bundled", "demo")
    return tmp_path / "bundled"


def test_a_new_store_gets_the_bundled_models_once(bundled, tmp_path):
    store = ModelStore(tmp_path / "store")
    add_bundled_models(store, bundled)
    assert store.refs() == [ModelRef("demo", 1)]
    assert store.read(ModelRef("demo", 1)).ref == ModelRef("demo", 1)
    add_bundled_models(store, bundled)
    (store.folder / "registry.json").write_text('{"aliases": {}, "loaded": []}')
    store.delete(ModelRef("demo", 1))
    add_bundled_models(store, bundled)
    assert store.refs() == []


def test_a_store_with_a_model_of_its_own_gets_none(bundled, tmp_path):
    put_model(tmp_path / "store", "mine")
    add_bundled_models(ModelStore(tmp_path / "store"), bundled)
    assert ModelStore(tmp_path / "store").refs() == [ModelRef("mine", 1)]


def test_a_checkout_has_none(tmp_path):
    add_bundled_models(ModelStore(tmp_path))
    assert ModelStore(tmp_path).refs() == []


def test_a_store_that_cannot_be_written_is_left_alone(bundled, tmp_path, caplog):
    (tmp_path / "store").write_text("a file")
    add_bundled_models(ModelStore(tmp_path / "store"), bundled)
    assert "cannot be copied" in caplog.text
