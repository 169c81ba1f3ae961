import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process import ROOT, Server, serving
from tests.sessions.valkey import OwnValkey

ADMIN_KEY = "a" * 40


def new_folder(folder: Path) -> Path:
    """Make a folder to serve the bundled model from."""
    shutil.copytree(ROOT / "model_store" / "demo", folder / "model_store" / "demo")
    (folder / "imports").mkdir()
    (folder / "model_store" / "registry.json").write_text(
        '{"aliases": {"default": "demo@1"}, "loaded": ["demo@1"]}'
    )
    return folder


@pytest.fixture(scope="session")
def valkey(tmp_path_factory) -> Iterator[OwnValkey]:
    store = OwnValkey(tmp_path_factory.mktemp("valkey"))
    store.start()
    yield store
    store.close()


@pytest.fixture(scope="session")
def keyed(tmp_path_factory, valkey) -> Iterator[Server]:
    """A server whose first key is in its environment."""
    folder = new_folder(tmp_path_factory.mktemp("keyed"))
    settings = {"CAROUSEL_REDIS_URL": valkey.url, "CAROUSEL_ADMIN_KEY": ADMIN_KEY}
    with serving(folder, **settings) as running:
        yield running
