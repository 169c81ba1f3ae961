"""Writes the table of kinds in docs/reference/checkpoints.md: `python -m tests.wild [folder]`.

`folder` has the folders `tf_keras` and `keras` that `author.py` writes; without one they are made.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.wild.test_wild import FRAMEWORKS, HERE, KINDS, PAGE, outcomes

BEGIN, END = "<!-- kinds -->", "<!-- /kinds -->"


def main(folder: Path) -> None:
    """Write the table."""
    rows = []
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
            with tempfile.TemporaryDirectory() as store:
                cells.append(outcomes(made, Path(store)))
            print(f"{kind}, {framework}: {cells[-1]}", flush=True)
        rows.append(f"| {' | '.join([*row.split('|'), *cells])} |")
    page = PAGE.read_text()
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{after}")


def table(rows: list[str]) -> str:
    """Return the table; the sentence of a refusal is a note below it, once."""
    sentences: list[str] = []

    def number(refusal: re.Match[str]) -> str:
        if refusal[1] not in sentences:
            sentences.append(refusal[1])
        return f"refused ({sentences.index(refusal[1]) + 1})"

    numbered = [re.sub("refused, (“[^”]*”)", number, row) for row in rows]
    notes = [f"{i}. {sentence}" for i, sentence in enumerate(sentences, 1)]
    head = ["| kind | the author's loop | tf_keras | Keras 3 |", "|---|---|---|---|"]
    return "\n".join([*head, *numbered, "", *notes])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as made:
            main(Path(made))
