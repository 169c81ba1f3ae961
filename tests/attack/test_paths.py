"""No reply shows where the server's folders are."""

import os
import shutil
from pathlib import Path

import httpx2
import pytest

from service.errors import reason_of
from tests.api.conftest import new_home
from tests.process import serving


def damage(store: Path) -> list[str]:
    """Versions of which a file is gone, a folder, cut or noise; return their names."""
    names = []
    for number, file in enumerate(("manifest.json", "weights.safetensors", "vocabulary.json")):
        for way in ("gone", "folder", "cut", "noise"):
            folder = store / f"{way}{number}" / "1"
            shutil.copytree(store / "demo" / "1", folder)
            target = folder / file
            content = target.read_bytes()
            if way in {"gone", "folder"}:
                target.unlink()
            if way == "folder":
                target.mkdir()
            if way in {"cut", "noise"}:
                target.write_bytes(content[:50] if way == "cut" else os.urandom(5_000))
            names.append(f"{way}{number}")
    return names


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return new_home(tmp_path_factory.mktemp("somewhere"))


def test_no_reply_shows_where_the_servers_folders_are(home):
    names = damage(home / "model_store")
    imports = home / "imports"
    for name, start in {
        "a.h5": b"\x89HDF\r\n\x1a\n",
        "a.keras": b"PK\x03\x04",
        "a.safetensors": b"",
        "a.index": b"",
    }.items():
        (imports / name).write_bytes(start + os.urandom(3_000))
    (imports / "dir").mkdir()
    (imports / "dir" / "checkpoint").write_text('model_checkpoint_path: "x"')
    (imports / "link").symlink_to("/etc/passwd")
    (imports / "loop").symlink_to("loop")
    (imports / "v.json").write_text('["a"]')
    replies: list[httpx2.Response] = []
    with (
        serving(home) as server,
        httpx2.Client(base_url=server.url, timeout=60) as http,
    ):
        for name in names:
            replies += [
                http.post(f"/admin/models/{name}@1/load"),
                http.post("/generate", json={"inputs": "a", "model": name}),
                http.post("/v1/completions", json={"prompt": "a", "model": name}),
            ]
        replies += map(http.get, ("/admin/models", "/health/ready", "/info", "/v1/models"))
        places = (
            *[one.name for one in imports.iterdir()],
            "nothing",
            ".",
            "..",
            str(imports / "a.h5"),
            str(home),
        )
        for place in places:
            body = {"source": place, "name": "n", "vocabulary": "v.json"}
            replies.append(http.post("/admin/models", json=body))
            body = {"source": "a.h5", "name": "n", "vocabulary": place}
            replies.append(http.post("/admin/models", json=body))
        for name in ("a.h5", "a.keras", "a.safetensors"):
            files = {"source": (name, (imports / name).read_bytes())}
            replies.append(http.post("/admin/models/upload", files=files, data={"name": "n"}))
        text = {"content": b"hello " * 900, "headers": {"Content-Type": "text/plain"}}
        shutil.rmtree(imports)
        replies.append(http.post("/admin/models", json={"source": "x", "name": "n"}))
        imports.write_text("")
        replies.append(http.post("/admin/models", json={"source": "x", "name": "n"}))
        corpora = home / "data" / "corpora"
        shutil.rmtree(corpora, ignore_errors=True)
        corpora.write_text("")
        replies.append(http.post("/corpora?name=c", **text))
        shutil.rmtree(home / "model_store")
        (home / "model_store").write_text("")
        replies += [
            http.get("/admin/models"),
            http.post("/admin/models/demo@1/load"),
            http.delete("/admin/models/demo@1"),
            http.put("/admin/aliases/x", json={"model": "demo@1"}),
        ]
    assert {200, 404, 422, 503} <= {reply.status_code for reply in replies}
    told = f"'{home}'"  # a request named the folder itself, which is none of the three
    texts = [one.text for one in replies if told not in one.text]
    assert [text for text in texts if str(home) in text or "site-packages" in text] == []


def test_a_reason_has_a_files_name_and_no_path(tmp_path):
    with pytest.raises(OSError, match="No such file") as refused:
        (tmp_path / "weights").read_bytes()
    assert reason_of(refused.value) == "weights: No such file or directory"
    assert reason_of(OSError(28, "No space left on device")) == "No space left on device"
    assert reason_of(ValueError("5 is odd")) == "5 is odd"
