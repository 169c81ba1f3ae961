"""Recurrent text generators as people have them: each gives its author's text, or a reason.

The outcomes are a table in docs/reference/checkpoints.md; `python -m tests.wild` writes it again.
"""

import json
import re
from pathlib import Path

import pytest

from service.errors import CarouselError
from service.models.bundle import Bundle
from service.models.importing.importer import Importer
from service.models.importing.request import ImportRequest
from service.models.store import ModelStore
from tests.wild.equality import Written, check_equal

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs/reference/checkpoints.md"
FRAMEWORKS = ("tf_keras", "keras")
KINDS = [
    name
    for module in ("carried", "window", "word", "other")
    for name in re.findall(
        r"^@kind\([^@]*?^def (\w+)", (HERE / f"{module}_kinds.py").read_text(), re.MULTILINE
    )
]

pytestmark = [pytest.mark.tf, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_model_gives_its_authors_text_or_a_reason(authored, tmp_path, framework, kind):
    folder = authored(framework) / kind
    if not folder.exists():
        pytest.skip(f"the kind does not exist in {framework}")
    row = row_of(PAGE.read_text(), (folder / "row.txt").read_text())
    assert row[FRAMEWORKS.index(framework)] == outcomes(folder, tmp_path)


def row_of(page: str, row: str) -> tuple[str, str]:
    """Return a kind's outcomes in the page, one for each framework."""
    name, loop = row.split("|")
    notes = dict(re.findall(r"^(\d+)\. (“.*”)$", page, re.MULTILINE))
    page = re.sub(r"refused \((\d+)\)", lambda note: f"refused, {notes[note[1]]}", page)
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if cells[1:3] == [name, loop]:
            return cells[3], cells[4]
    raise AssertionError(f"the page has no row for {name}: run python -m tests.wild")


def outcomes(folder: Path, store: Path) -> str:
    """Import each file of a kind and compare it with its author; return the page's cell."""
    found: dict[str, list[str]] = {}
    for case in json.loads((folder / "cases.json").read_text()):
        found.setdefault(outcome(folder, store, case), []).append(case["how"])
    return "; ".join(f"{', '.join(hows)}: {what}" for what, hows in found.items())


def outcome(folder: Path, store: Path, case: dict) -> str:
    """Return `equal`, or the reason of a refusal."""
    try:
        bundle = imported(folder, store, case)
    except CarouselError as error:
        return f"refused, “{error}”"
    check_equal(bundle, Written.read(folder, case["author"]))
    return "equal"


def imported(folder: Path, store: Path, case: dict, name: str = "wild") -> Bundle:
    """Import a file of a kind in float32."""
    options = dict(case["options"])
    paths = {
        "vocabulary": options.get("vocabulary"),
        "vocabulary_text": options.get("text"),
        "config": options.get("config"),
    }
    request = ImportRequest(
        Path(case["source"]),
        name,
        precision="float32",
        assume=options.get("assume", {}),
        **{key: Path(path) for key, path in paths.items() if path is not None},
    )
    return Importer(folder, ModelStore(store)).run(request)
