import pytest

from service.cgroup import machine_share
from service.errors import BadRequest
from service.settings import CLIENT_VARIABLES, Settings
from tools.settings import PAGE, page_with_settings


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    import os  # noqa: PLC0415

    for name in [name for name in os.environ if name.upper().startswith("CAROUSEL_")]:
        monkeypatch.delenv(name)


def test_the_defaults_are_those_of_the_contract():
    settings = Settings.read()
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    folders = (settings.model_store, settings.import_dir, settings.data_dir)
    assert [str(folder) for folder in folders] == ["model_store", "imports", ".data"]
    assert settings.threads >= 1


def test_an_option_comes_before_the_environment(monkeypatch):
    monkeypatch.setenv("CAROUSEL_PORT", "9000")
    assert Settings.read().port == 9000
    assert Settings.read(port=9001).port == 9001
    assert Settings.read(port=None).port == 9000


def test_the_url_that_the_terminal_uses_is_no_unknown_setting(monkeypatch):
    monkeypatch.setenv("CAROUSEL_URL", "http://127.0.0.1:9000")
    assert Settings.read().port == 8000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CAROUSEL_PROT", "8000"),
        ("carousel_prot", "8000"),
        ("CAROUSEL_", ""),
        ("CAROUSEL_PORT", "65536"),
        ("CAROUSEL_PORT", "8e3"),
        ("CAROUSEL_THREADS", "0"),
        ("CAROUSEL_PROCESSES", "0"),
        ("CAROUSEL_PROCESSES", "many"),
        ("CAROUSEL_LOG_LEVEL", "INFO"),
        ("CAROUSEL_WORKER_QUEUES", "gpu"),
        ("CAROUSEL_WORKER_QUEUES", "train-gpu,"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(BadRequest, match=f"{name} is "):
        Settings.read()


def test_the_address_of_redis_is_never_printed(monkeypatch):
    monkeypatch.setenv("CAROUSEL_REDIS_URL", "redis://:password@host")
    settings = Settings.read()
    assert "password" not in f"{settings} {settings!r} {settings.model_dump_json()}"


def test_settings_do_not_change():
    with pytest.raises(ValueError, match="frozen"):
        Settings.read().port = 1


@pytest.mark.parametrize(
    ("given", "size_bytes"),
    [("1000", 1000), ("2GiB", 2 * 2**30), ("512 MB", 512_000_000), ("1.5kib", 1536)],
)
def test_the_memory_budget_is_bytes_or_has_a_unit(monkeypatch, given, size_bytes):
    monkeypatch.setenv("CAROUSEL_MEMORY_BUDGET", given)
    assert Settings.read().memory_budget_bytes == size_bytes


@pytest.mark.parametrize("given", ["0", "-1", "half", "8 apples"])
def test_a_memory_budget_that_is_none_is_refused(monkeypatch, given):
    monkeypatch.setenv("CAROUSEL_MEMORY_BUDGET", given)
    with pytest.raises(BadRequest, match="CAROUSEL_MEMORY_BUDGET is "):
        Settings.read()


def test_without_a_memory_budget_it_is_half_of_what_the_process_may_use():
    assert Settings.read().memory_budget_bytes == machine_share().memory_bytes // 2


def test_threads_spin_as_told_and_by_themselves_only_on_cores_of_their_own(monkeypatch):
    assert Settings.read().spins is machine_share().has_own_cores
    for given, spins in [("on", True), ("off", False)]:
        monkeypatch.setenv("CAROUSEL_SPIN", given)
        assert Settings.read().spins is spins


def test_the_page_has_every_setting():
    page = PAGE.read_text()
    assert page == page_with_settings(), "run `make docs`"
    for name in (*(f"CAROUSEL_{one.upper()}" for one in Settings.model_fields), *CLIENT_VARIABLES):
        (row,) = (line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert len(row.split("|")[-2].strip()) > 5, "it says what it means"


def test_addresses_of_this_machine_are_told_from_others():
    found = {host: Settings(host=host).is_loopback for host in HOSTS}
    assert found == HOSTS


HOSTS = {
    "127.0.0.1": True,
    "127.8.8.8": True,
    "::1": True,
    "localhost": True,
    "0.0.0.0": False,
    "::": False,
    "10.0.0.1": False,
    "carousel.example": False,
}
