"""The version is written once, in `service/__init__.py`, and shown in four places."""

import json
import re
import subprocess
import sys
import tomllib
import urllib.request

import pytest

from service import __version__
from tests.process import ROOT


def output_of(*command: str) -> str:
    return subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout


def test_the_command_shows_the_version():
    assert output_of(sys.executable, "-m", "service", "--version") == f"carousel {__version__}\n"


@pytest.mark.parametrize("path", ["/info", "/openapi.json"])
def test_the_server_shows_the_version(server, path):
    with urllib.request.urlopen(server.url + path) as reply:
        shown = json.load(reply)
    assert shown.get("info", shown)["version"] == __version__


def test_the_image_is_labelled_with_the_version():
    assert f"--build-arg VERSION={__version__} " in output_of("make", "--dry-run", "image")


def test_no_other_file_repeats_the_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["tool"]["hatch"]["version"]["path"] == "service/__init__.py"
    default = re.search(r"^ARG VERSION=(.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert default is not None
    assert default[1] == "unknown"
