"""Writes the table of kinds in docs/reference/checkpoints.md: `python -m tests.wild [folder …]`.

`folder` has the folders `tf_keras` and `keras` that `author.py` writes; without one they are made.
With kinds after it only their rows are written.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.wild.test_wild import FRAMEWORKS, HERE, KINDS, PAGE, outcomes, row_of

BEGIN, END = "<!-- kinds -->", "<!-- /kinds -->"


def main(folder: Path, *chosen: str) -> None:
    """Write the table."""
    rows, page = [], PAGE.read_text()
    for framework in FRAMEWORKS:
        if not (folder / framework).exists():
            command = [sys.executable, HERE / "author.py", framework, folder / framework]
            subprocess.run(command, check=True)
    for kind in KINDS:
        cells = []
        for framework in FRAMEWORKS:
            made = folder / framework / kind
            if not made.exists():
                cells.append("")
                continue
            row = (made / "row.txt").read_text()
            if chosen and kind not in chosen:
                cells.append(row_of(page, row)[FRAMEWORKS.index(framework)])
                continue
            with tempfile.TemporaryDirectory() as store:
                cells.append(outcomes(made, Path(store)))
            print(f"{kind}, {framework}: {cells[-1]}", flush=True)
        rows.append(f"| {' | '.join([*row.split('|'), *cells])} |")
    head = ["| kind | the author's loop | tf_keras | Keras 3 |", "|---|---|---|---|"]
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    table = "\n".join([*head, *rows])
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]), *sys.argv[2:])
    else:
        with tempfile.TemporaryDirectory() as made:
            main(Path(made))
