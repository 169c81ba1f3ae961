"""The benchmarks say how long they take, how far they are, and on what machine; no file changes."""

import os
import re
import subprocess
import sys
import time

import psutil
import pytest

from bench.__main__ import PARTS, README, RESULTS, insert
from bench.machine import (
    BUSY_SHARE,
    busy_warning,
    caption,
    cpu_s,
    median_limits,
    paired_ratio,
    processor,
)
from bench.progress import Progress
from tests.process import ROOT


def test_progress_says_steps_and_times(capsys):
    progress = Progress("layers", 2, 75)
    progress.done("step: 1,000 characters/s")
    said = capsys.readouterr()
    assert said.out == ""
    first, second = said.err.splitlines()
    assert first == "layers: 2 steps, about 1:15 on a quiet machine"
    assert re.fullmatch(r"  1/2, 0:0\d of 1:15: step: 1,000 characters/s", second)


def test_a_busy_machine_is_said():
    assert busy_warning(BUSY_SHARE, 0.1) is None
    assert "40% of its processor time" in busy_warning(0.4, 2.5)
    about = {"processor": "A", "busy_before": 0.4, "load_before": 2.5}
    assert caption(about) == "A, 40% of it busy with other programs; load average before: 2.5"
    assert caption(about | {"busy_before": 0}) == "A; load average before: 2.5"


def test_the_processor_has_a_name():
    assert f"{os.cpu_count()} cores" in processor()


def test_ratios_are_of_turns():
    """One round that other work has slowed on both sides changes nothing."""
    assert paired_ratio([90, 9, 88], [100, 10, 100]) == 0.9


def test_the_limits_of_a_median_are_two_of_the_values():
    values = [float(i) for i in range(40)]
    assert median_limits(values) == (13.0, 26.0)  # by the binomial distribution: 96 %
    assert median_limits([*values[:-1], 1e9]) == (13.0, 26.0)
    assert median_limits([1.0, 2.0]) == (1.0, 2.0)


def test_the_processor_time_of_a_process_is_finer_than_a_tick():
    process = psutil.Process()
    before, own_s = cpu_s([process]), time.process_time()
    while time.process_time() - own_s < 0.02:
        pass
    found = cpu_s([process]) - before
    assert found >= 0.02
    assert round(found, 2) != found


def test_every_table_of_the_readme_has_its_place(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(README.read_text())
    for name, part in PARTS.items():
        if part.in_readme:
            insert(f"the table of {name}", page, name)
    assert page.read_text().count("the table of ") == sum(p.in_readme for p in PARTS.values())


def bench(*arguments, limit_s=30):
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=limit_s, check=False
    )


def test_an_unknown_part_is_refused():
    done = bench("layer")
    assert done.returncode == 2
    assert "no part layer; there are layers, sessions" in done.stderr


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_part_runs_and_touches_no_file():
    """Without --write; with it, the same result goes to the files."""
    files = [README, *RESULTS.iterdir()]
    before = [(path, path.stat().st_mtime_ns, path.read_bytes()) for path in files]
    done = bench("decoding", limit_s=590)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("decoding: about 1:15 minutes on a quiet machine\n")
    assert "  11/11, " in done.stderr
    assert "| 16 streams with a regular expression | " in done.stdout
    assert processor() in done.stdout
    assert [(path, path.stat().st_mtime_ns, path.read_bytes()) for path in files] == before
    assert {README, *RESULTS.iterdir()} == set(files)
