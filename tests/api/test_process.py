"""The serving process from outside."""

import shutil
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.process import ROOT, ended, serving


def maps_of(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def test_a_process_that_serves_holds_no_tensorflow_and_little_memory(tmp_path):
    shutil.copytree(ROOT / "model_store" / "demo", tmp_path / "model_store" / "demo")
    with serving(tmp_path) as server:
        body = {"inputs": "The ", "parameters": {"max_new_tokens": 2_000}}
        for _ in range(5):
            assert httpx2.post(server.url + "/generate", json=body).is_success
        maps = maps_of(server.process.pid)
        assert "tensorflow" not in maps
        assert "h5py" not in maps
        assert psutil.Process(server.process.pid).memory_info().rss < 280e6


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("CAROUSEL_PROT", "8000", "CAROUSEL_PROT is unknown"),
        ("CAROUSEL_PORT", "many", "CAROUSEL_PORT is 'many'"),
        ("CAROUSEL_PORT", "0", "CAROUSEL_PORT is"),
        ("CAROUSEL_PROCESSES", "many", "CAROUSEL_PROCESSES is 'many'"),
        ("CAROUSEL_LOG_LEVEL", "loud", "CAROUSEL_LOG_LEVEL"),
    ],
)
def test_a_setting_that_is_wrong_stops_the_start_and_names_itself(tmp_path, name, value, sentence):
    done = ended(tmp_path, **{name: value})
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
