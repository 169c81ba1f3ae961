"""The systemd unit: settings that there are, and time to drain."""

import shutil
import subprocess

import pytest

from tests.deployment.settings import read, unknown
from tests.process import ROOT

UNIT = ROOT / "docker" / "systemd" / "carousel.service"


def lines(key: str) -> list[str]:
    """Return the values of a key, in order."""
    rows = (line.partition("=") for line in UNIT.read_text().splitlines())
    return [value for name, _, value in rows if name == key]


def test_its_variables_are_settings_with_values_that_are_taken():
    given = dict(line.split("=", 1) for line in lines("Environment"))
    assert not unknown(given)
    settings = read(**{k: v for k, v in given.items() if k.startswith("CAROUSEL_")})
    assert str(settings.model_store).startswith("/var/lib/carousel/")  # StateDirectory


def test_a_stop_outlasts_the_drain():
    given = dict(line.split("=", 1) for line in lines("Environment"))
    assert int(lines("TimeoutStopSec")[0]) >= float(given["CAROUSEL_DRAIN_S"]) + 5
    assert lines("KillMode") == ["mixed"]


def test_code_may_be_compiled_and_nothing_else():
    assert "MemoryDenyWriteExecute" not in [
        line.split("=")[0] for line in UNIT.read_text().splitlines()
    ]
    assert lines("NoNewPrivileges") == ["yes"]
    assert lines("ProtectSystem") == ["strict"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
def test_systemd_takes_it(tmp_path):
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/carousel/bin/carousel", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    ours = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert not ours, ours
