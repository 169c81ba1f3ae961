"""The reference of the command line is what the commands say."""

import json
import subprocess
import sys

from service import __version__
from service.cli.version import commit
from tests.cli.commands import printed
from tests.process import ROOT
from tools.commands import PAGE, page


def test_the_page_has_every_command_and_option():
    assert PAGE.read_text() == page(), "run `python -m tools.commands`"
    for words in ("## carousel serve", "### carousel jobs follow", "`--max-new-tokens`"):
        assert words in page()


def test_the_version_says_what_runs(tmp_path):
    found = json.loads(printed("version", "--json", folder=tmp_path))
    assert found["carousel"] == __version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["int8"].startswith(("ONNX Runtime", "Carousel's own kernel"))
    lines = printed("version", folder=tmp_path).splitlines()
    assert [line.split()[0] for line in lines] == list(found)
    assert printed("--version", folder=tmp_path) == f"carousel {__version__}\n"


def test_the_commit_is_known_in_a_checkout_alone(tmp_path):
    made = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    found = commit()
    assert made.stdout.startswith(found) if found else made.returncode
    assert commit(tmp_path) is None


def test_a_shell_completes_commands():
    words = {
        "COMP_WORDS": "carousel gene",
        "COMP_CWORD": "1",
        "_CAROUSEL_COMPLETE": "complete_bash",
    }
    done = subprocess.run(
        [sys.executable, "-c", "from service.cli.main import app; app(prog_name='carousel')"],
        env={"PATH": "/usr/bin:/bin"} | words,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["generate"]
