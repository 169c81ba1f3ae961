"""`make bench`: every layer of serving, sessions, decoding. `make bench-write` keeps the results.

`python -m bench [--write] [PART…]`; the parts are layers, sessions, decoding, wild, inside and
training, and `quality TEXT`. Tables go to standard output, progress to standard error. Without
--write no file of the checkout is touched. Other comparisons are modules of their own:
`bench.beside`, `bench.observed`, `bench.short_requests`, `bench.hostile`, `bench.guidellm`,
`bench.peer`.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import decoding, inside, layers, sessions, training, wild
from bench.progress import duration

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the benchmark: a module that prints its figures, and how they become a table."""

    expected_s: float
    table: Callable[[dict[str, Any]], str]
    in_readme: bool = True


PARTS = {
    "layers": Part(layers.expected_s(), layers.table),
    "sessions": Part(sessions.EXPECTED_S, sessions.table),
    "decoding": Part(decoding.EXPECTED_S, decoding.table),
    "wild": Part(wild.EXPECTED_S, wild.table),
    "inside": Part(inside.EXPECTED_S, inside.table, in_readme=False),
    "training": Part(training.EXPECTED_S, training.table, in_readme=False),
}
USUAL = ("layers", "sessions", "decoding")


def main() -> None:
    """Run the parts, each in a process of its own, and print their tables."""
    options = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    options.add_argument("--write", action="store_true", help="write bench/results and README.md")
    options.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    chosen = options.parse_args()
    names = chosen.parts or USUAL
    if names[0] == "quality":
        _quality(names[1], is_written=chosen.write)
        return
    if unknown := set(names) - set(PARTS):
        options.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    total_s = sum(PARTS[name].expected_s for name in names)
    _say(f"{', '.join(names)}: about {duration(total_s)} minutes on a quiet machine")
    for name in names:
        result = _figures(name)
        print(f"{PARTS[name].table(result)}\n", flush=True)
        if name == "wild":
            print(f"{wild.wide_table(result)}\n", flush=True)
        if chosen.write:
            _write(name, result)
            if PARTS[name].in_readme:
                insert(PARTS[name].table(result), README, name)


def _quality(text: str, *, is_written: bool) -> None:
    result = _figures("quality", text)
    print(f"{result['validation_nats']} nats per character after {result['trained_s']} s")
    if is_written:
        _write("quality", result)


def _figures(module: str, *arguments: str) -> dict[str, Any]:
    """Run a module of this package in its own process; return the JSON that it prints."""
    command = [sys.executable, "-m", f"bench.{module}", *arguments]
    process = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    figures: dict[str, Any] = json.loads(process.stdout)
    return {"when": datetime.now(UTC).isoformat(timespec="seconds")} | figures


def _write(name: str, result: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    _say(f"written: {path}")


def insert(table: str, page: Path, name: str) -> None:
    """Replace the table between the page's two markers of a name."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, rest = page.read_text().split(begin)
    after = rest.split(end)[1]
    page.write_text(f"{before}{begin}\n{table}\n{end}{after}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
