"""`carousel serve --processes 2` where no model is loaded: what it says, and what SIGHUP does."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from service.models.store import RegistryRecord
from tests.bundles import put_model
from tests.fleet.house import until
from tests.process import ROOT, environment, free_port

KEY = "k" * 32


@dataclass(frozen=True)
class EmptyHouse:
    """A server of two processes, and what it has said."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def hears(self, words: str, times: int = 1) -> None:
        """Wait until it has said something so many times."""
        until(lambda: self.log.read_text().count(words) >= times, 400)
        assert self.log.read_text().count(words) == times

    def post(self, path: str) -> httpx2.Response:
        header = {"Authorization": f"Bearer {KEY}"}
        return httpx2.post(f"{self.url}{path}", json={}, headers=header, timeout=120)


@pytest.fixture
def house(tmp_path) -> Iterator[EmptyHouse]:
    store, log, port = tmp_path / "model_store", tmp_path / "log", free_port()
    put_model(store, "a")
    RegistryRecord((), {}).write(store)
    given = environment(tmp_path, port, CAROUSEL_PROCESSES="2", CAROUSEL_ADMIN_KEY=KEY)
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "serve"],
            env=given,
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        yield EmptyHouse(f"http://127.0.0.1:{port}", process, log)
    finally:
        process.terminate()
        assert process.wait(60) == 0


def test_it_says_what_to_do_and_is_replaced(house, tmp_path):
    house.hears("  carousel load a@1")
    house.process.send_signal(signal.SIGHUP)
    house.hears("every process has been replaced")
    assert house.log.read_text().count("carousel load a@1") == 1
    assert "Carousel is ready" not in house.log.read_text()
    assert house.post("/admin/models/a@1/load").status_code == 200
    house.hears(f'{house.url}/generate_stream -H "Authorization: Bearer $KEY"')
    # A process that finds no model does not take the place of one that has it.
    shutil.rmtree(tmp_path / "model_store" / "a")
    house.process.send_signal(signal.SIGHUP)
    house.hears("the process for place 0 has no model; nothing is replaced")
    house.hears("the process for place 0 has ended with -9")
    assert httpx2.get(f"{house.url}/health/ready", timeout=120).status_code == 200
    assert house.log.read_text().count("every process has been replaced") == 1
