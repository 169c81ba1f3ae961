"""`make bench`: the article's loop as 1.0, the engine, HTTP streaming; sessions; decoding.

`python -m bench wild` compares with tutorials' loops, `python -m bench training` measures training,
`python -m bench quality TEXT` a trained model.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.decoding import table as decoding_table
from bench.report import draw, insert, table
from bench.seed_model import write_seed_model
from bench.server import server
from bench.sessions import table as sessions_table
from bench.training import table as training_table
from bench.wild_table import table as wild_table
from bench.wild_table import wide_table
from service.models.bundle import Precision

STREAMS = (1, 16, 64)
RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"


def _figure(module: str, *arguments: str, **environment: str) -> Any:
    """Run a module of this package in its own process; return the JSON that it prints."""
    command = [sys.executable, "-m", f"bench.{module}", *arguments]
    process = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, env={**os.environ, **environment}
    )
    return json.loads(process.stdout)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    vnni = " with VNNI" if any("vnni" in line for line in lines) else " without VNNI"
    return next(names, platform.machine()) + vnni


def _machine() -> dict[str, Any]:
    return {"processor": _processor(), "cores": os.cpu_count()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def main() -> None:
    """Run the benchmarks given as arguments; print tables, update the README, write JSON."""
    RESULTS.mkdir(exist_ok=True)
    parts = sys.argv[1:] or ["decode", "sessions", "decoding"]
    if parts[0] == "quality":
        _quality(Path(parts[1]))
        return
    if "decode" in parts:
        _decode()
    if "sessions" in parts:
        _sessions()
    if "decoding" in parts:
        _decoding()
    if "wild" in parts:
        _wild()
    if "training" in parts:
        _training()


def _sessions() -> None:
    result = {"when": _now(), "machine": _machine(), **_figure("sessions")}
    (RESULTS / "sessions.json").write_text(json.dumps(result, indent=2) + "\n")
    print(sessions_table(result))
    insert(sessions_table(result), README, "sessions")


def _decoding() -> None:
    result = {"when": _now(), "machine": _machine(), **_figure("decoding")}
    (RESULTS / "decoding.json").write_text(json.dumps(result, indent=2) + "\n")
    print(decoding_table(result))
    insert(decoding_table(result), README, "decoding")


def _training() -> None:
    result = {"when": _now(), "machine": _machine(), **_figure("training")}
    (RESULTS / "training.json").write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    print(training_table(result))


def _wild() -> None:
    result = {"when": _now(), "machine": _machine(), **_figure("wild")}
    (RESULTS / "wild.json").write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    print(f"{wild_table(result)}\n\n{wide_table(result)}")
    insert(wild_table(result), README, "wild")


def _quality(text: Path) -> None:
    figures = _figure("quality", str(text))
    result = {"when": _now(), "machine": _machine(), **figures}
    (RESULTS / "quality.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"{result['validation_nats']} nats per character after {result['trained_s']} s")


def _decode() -> None:
    baseline = [_figure("baseline")]
    in_process = {
        precision: {n: _figure("decode", precision, str(n)) for n in STREAMS}
        for precision in Precision
    }
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        refs = {precision: write_seed_model(store, precision) for precision in Precision}
        with server(store) as port:
            http = {
                precision: {n: _figure("load", str(port), str(ref), str(n)) for n in STREAMS}
                for precision, ref in refs.items()
            }
    baseline.append(_figure("baseline"))
    result = {
        "when": _now(),
        "machine": _machine(),
        "baseline_characters_per_s": baseline,
        "in_process_characters_per_s": in_process,
        "http": http,
    }
    (RESULTS / "decode.json").write_text(json.dumps(result, indent=2) + "\n")
    print(table(result))
    insert(table(result), README, "bench")
    draw(result, RESULTS / "decode.png")


if __name__ == "__main__":
    main()
