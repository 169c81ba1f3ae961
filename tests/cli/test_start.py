"""A start that cannot succeed: one sentence, exit code 2, and no traceback."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from service.announcement import advice, ready
from service.errors import BadRequest
from service.models.loaded_model import ModelInfo, ModelStatus
from service.models.retention import Retention
from service.models.spec import ModelRef
from service.sessions.config import SessionConfig
from service.sessions.redis_client import check_store_config
from service.settings import Settings
from service.start_checks import check_folder, check_folders, listen
from tests.process import ROOT, ended, environment, free_port


def refusal(folder: Path, *arguments: str, **settings: str) -> str:
    done = ended(folder, *arguments, **settings)
    assert (done.returncode, done.stdout) == (2, ""), done
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("carousel: ")
    return lines[0]


@pytest.fixture(scope="module")
def without_training(tmp_path_factory) -> dict[str, str]:
    """The environment of an installation without the extra that trains."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text('import sys\nsys.modules["tensorflow"] = None\n')
    return {"PYTHONPATH": str(folder)}


def test_a_port_in_use(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = refusal(tmp_path, CAROUSEL_PORT=str(port))
    assert said == (
        f"carousel: port {port} of 127.0.0.1 is in use by another process; end it, or set "
        "CAROUSEL_PORT to another port"
    )
    assert not (tmp_path / "data" / "valkey").exists()  # nothing was started


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    said = refusal(tmp_path, CAROUSEL_IMPORT_DIR=str(tmp_path / "file"))
    assert said == (
        f"carousel: CAROUSEL_IMPORT_DIR is {tmp_path}/file, which is a file or lies below one; "
        "set CAROUSEL_IMPORT_DIR to another folder"
    )


@pytest.mark.parametrize("name", ["model_store", "import_dir", "data_dir"])
@pytest.mark.parametrize("below", ["", "below/it"])
def test_every_folder_is_checked(tmp_path, name, below):
    (tmp_path / "file").touch()
    folders = {each: tmp_path / each for each in ("model_store", "import_dir", "data_dir")}
    settings = Settings.read(**folders | {name: tmp_path / "file" / below})
    with pytest.raises(BadRequest, match=f"CAROUSEL_{name.upper()} is .* is a file or lies below"):
        check_folders(settings)


@pytest.mark.skipif(sys.platform != "linux", reason="a folder that not even root may write")
def test_a_folder_that_cannot_be_created(tmp_path):
    said = refusal(tmp_path, CAROUSEL_DATA_DIR="/sys/carousel")
    assert "CAROUSEL_DATA_DIR is /sys/carousel, which cannot be created (" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="checks as another user")
def test_a_data_folder_that_may_not_be_written_and_a_store_that_may():
    script = """if True:
        import os, sys, tempfile
        from pathlib import Path
        from service.errors import BadRequest
        from service.start_checks import check_folder
        folder = Path(tempfile.mkdtemp())
        folder.chmod(0o555)
        os.setuid(65534)
        check_folder(folder, "CAROUSEL_MODEL_STORE")
        try:
            check_folder(folder, "CAROUSEL_DATA_DIR", is_written=True)
        except BadRequest as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "which may not be written by user 65534; change its owner, or set" in done.stdout


def test_a_store_url_that_is_none(tmp_path):
    said = refusal(tmp_path, CAROUSEL_REDIS_URL="nonsense")
    assert "CAROUSEL_REDIS_URL is not the URL of a Redis" in said


@pytest.mark.parametrize("url", ["http://localhost:6379", "redis://", "redis://h:port", "unix://"])
async def test_other_urls_that_are_none(url):
    with pytest.raises(BadRequest, match="is not the URL of a Redis, such as redis://127"):
        await check_store_config(url, SessionConfig())


def test_a_store_that_does_not_answer(tmp_path):
    port = free_port()
    said = refusal(tmp_path, CAROUSEL_REDIS_URL=f"redis://:secret@127.0.0.1:{port}")
    assert f"no Redis can be used at redis://127.0.0.1:{port} (" in said
    assert "secret" not in said


def test_a_host_that_is_not_here(tmp_path):
    said = refusal(tmp_path, CAROUSEL_HOST="192.0.2.1")
    assert "192.0.2.1 is no address of this machine; set CAROUSEL_HOST" in said


@pytest.mark.parametrize(
    ("arguments", "settings", "what"),
    [
        (("serve",), {"CAROUSEL_WORKERS": "2"}, "a training worker (CAROUSEL_WORKERS is 2)"),
        (("worker",), {}, "a training worker"),
        (("train", "README.md", "--name", "mine"), {}, "training"),
    ],
)
def test_the_extra_that_trains_is_missing(tmp_path, without_training, arguments, settings, what):
    said = refusal(tmp_path, *arguments, **settings, **without_training)
    assert said == (
        f"carousel: {what} needs tensorflow, which this installation lacks: "
        "pip install 'carousel-serve[train]'"
    )


def test_a_port_is_taken_on_every_address_of_a_host_and_given_back():
    sockets = listen("localhost", free_port())
    port = sockets[0].getsockname()[1]
    with pytest.raises(BadRequest, match="is in use"):
        listen("127.0.0.1", port)
    for each in sockets:
        each.close()
    for each in listen("127.0.0.1", port):
        each.close()


def test_missing_folders_are_created(tmp_path):
    check_folder(tmp_path / "a" / "b", "CAROUSEL_DATA_DIR", is_written=True)
    assert (tmp_path / "a" / "b").is_dir()


def info(name: str, status: ModelStatus, error: str | None = None) -> ModelInfo:
    return ModelInfo(ModelRef(name, 1), status, None, None, 0, error, Retention(), 0)


def test_a_server_without_a_model_says_what_to_do(tmp_path):
    nothing = "\n".join(advice([], tmp_path))
    assert f"none is stored in {tmp_path}" in nothing
    assert "carousel import CHECKPOINT" in nothing
    assert "carousel train TEXT" in nothing
    stored = "\n".join(advice([info("a", ModelStatus.STORED)], tmp_path))
    assert "carousel load a@1" in stored
    failed = advice([info("a", ModelStatus.STORED), info("b", ModelStatus.FAILED, "bad")], tmp_path)
    assert "b@1 could not be loaded: bad" in failed


def test_ready_is_said_when_there_is_a_model(tmp_path):
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "serve"],
        env=environment(tmp_path, port),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        first = process.stdout.readline()
        assert first.startswith("Carousel has no model: none is stored in ")
        lines = [process.stdout.readline() for _ in range(3)]
        assert "carousel load NAME" in lines[-1]
        subprocess.run(
            ["cp", "-r", str(ROOT / "model_store" / "demo"), str(tmp_path / "model_store")],
            check=True,
        )
        url = f"http://127.0.0.1:{port}"
        loaded = ended(tmp_path, "load", "demo@1", "--url", url)
        assert loaded.returncode == 0, loaded
        assert process.stdout.readline() == f"Carousel is ready at {url}; try:\n"
    finally:
        process.send_signal(2)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith("carousel: interrupted; goodbye\n"), (out, err)
    assert "Traceback" not in err


def test_a_generation_that_is_interrupted_says_goodbye(tmp_path):
    """At each of several moments: while modules are imported or compiled, and while text comes."""
    for after in ("start", 0.5, 1.5, "text", "text"):
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "generate", "def ", "--max-new-tokens", "2000000"],
            env=environment(tmp_path, 1) | {"CAROUSEL_MODEL_STORE": str(ROOT / "model_store")},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        if after == "text":
            process.stdout.read(200)
        elif after == "start":
            while Path(f"/proc/{process.pid}/maps").read_text().count("/numpy") == 0:
                time.sleep(0.01)
        else:
            time.sleep(float(after) + 0.5)
        process.send_signal(2)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130, (after, err)
        assert err.decode() == "\ncarousel: interrupted; goodbye\n"


def test_a_reader_that_has_enough_ends_the_command_quietly(tmp_path):
    command = f"{sys.executable} -m service generate 'def ' --max-new-tokens 100000"
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -c 20 >/dev/null; exit ${{PIPESTATUS[0]}}"],
        env=environment(tmp_path, 1) | {"CAROUSEL_MODEL_STORE": str(ROOT / "model_store")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (141, "")


def test_an_empty_prompt_is_refused(tmp_path):
    store = {"CAROUSEL_MODEL_STORE": str(ROOT / "model_store")}
    assert "give the beginning of a text" in refusal(tmp_path, "generate", "", **store)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_stop_while_the_first_start_compiles(tmp_path, sent, code):
    """It says why it takes long, and a stop does not wait for the compiler, which has no end."""
    shutil.copytree(ROOT / "model_store", tmp_path / "model_store")
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "serve"],
        env=environment(tmp_path, free_port(), NUMBA_CACHE_DIR=str(tmp_path / "numba")),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == (
        "Carousel is loading demo@1; the first start on a machine compiles, for a minute or so\n"
    )
    process.send_signal(sent)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, ""), err
    assert "stopping took longer" not in err


def test_the_first_line_to_try_has_a_key_and_an_address_that_answers():
    at, line = ready("https://0.0.0.0:8443", needs_key=True)
    assert at == "Carousel is ready at https://0.0.0.0:8443; try:"
    assert line.startswith('  curl -N https://localhost:8443/generate_stream -H "Authorization: ')
    assert "localhost:8000/" in ready("http://[::]:8000")[1]
    assert "http://127.0.0.1:8000/" in ready("http://127.0.0.1:8000")[1]
    assert "Authorization" not in ready("http://127.0.0.1:8000")[1]
