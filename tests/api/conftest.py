import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from service.models.cell import LayerSpec
from service.models.spec import ModelSpec
from tests.bundles import put_model
from tests.process import ROOT, Server, serving

# Characters that some readers take for the end of a line, and some that JSON may escape.
AWKWARD = '\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\n\r\t"\\/<é中😀'


def new_home(folder: Path) -> Path:
    """Make a folder to serve from: the bundled model, the awkward one, an empty import folder."""
    shutil.copytree(ROOT / "model_store" / "demo", folder / "model_store" / "demo")
    (folder / "imports").mkdir()
    awkward = ModelSpec(len(AWKWARD), None, (LayerSpec("lstm", 8),))
    put_model(folder / "model_store", "awkward", awkward, 0.0, AWKWARD)
    (folder / "model_store" / "registry.json").write_text(
        '{"aliases": {"default": "demo@1"}, "loaded": ["demo@1", "awkward@1"]}'
    )
    return folder


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that do not change it."""
    with serving(new_home(tmp_path_factory.mktemp("home"))) as running:
        yield running


@pytest.fixture(scope="session")
def http(server: Server) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.url, timeout=30) as client:
        yield client
