"""The files of the page as the server gives them."""

import gzip
import json

import httpx2
import pytest

from service.api.ui_page import FOLDER, prefers_html
from tests.keys.conftest import new_folder
from tests.process import serving

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
LARGEST_PAGE_BYTES = 90_000  # compressed, everything
LARGEST_FILE_LINES = 400


@pytest.fixture(scope="module")
def http(server):
    with httpx2.Client(base_url=server.url) as client:
        yield client


@pytest.mark.parametrize("accept", ["*/*", "application/json", "", "application/json, */*"])
def test_get_root_tells_programs_whether_the_server_is_ready(http, accept):
    reply = http.get("/", headers={"Accept": accept})
    assert (reply.status_code, reply.content) == (200, b"")


def test_get_root_leads_a_browser_to_the_page(http):
    reply = http.get("/", headers={"Accept": BROWSER})
    assert (reply.status_code, reply.headers["location"]) == (303, "ui/")
    assert http.get("/ui").headers["location"] == "ui/"
    page = http.get("/", headers={"Accept": BROWSER}, follow_redirects=True)
    assert page.headers["content-type"] == "text/html; charset=utf-8"


def test_post_root_generates_whatever_is_accepted(http):
    body = {"inputs": "The ", "parameters": {"max_new_tokens": 1}}
    assert http.post("/", json=body, headers={"Accept": BROWSER}).json()[0]["generated_text"]


@pytest.mark.parametrize(
    ("accept", "is_page"),
    [
        (BROWSER, True),
        ("text/html", True),
        ("text/html;q=0.5, application/json;q=0.9", False),
        ("text/html, application/json", False),
        ("text/html;q=x", False),
        ("*/*", False),
    ],
)
def test_a_page_is_for_who_prefers_one(accept, is_page):
    assert prefers_html(accept) is is_page


def test_every_file_has_the_strict_policy_and_is_known_when_it_is_asked_for_again(http):
    for path in [p for p in FOLDER.rglob("*") if p.is_file()]:
        url = f"/ui/{path.relative_to(FOLDER).as_posix()}"
        reply = http.get(url)
        assert reply.status_code == 200
        assert reply.content == path.read_bytes()
        assert "'unsafe" not in reply.headers["content-security-policy"]
        assert "require-trusted-types-for 'script'" in reply.headers["content-security-policy"]
        again = http.get(url, headers={"If-None-Match": reply.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        is_fixed = path.parent.name == "vendor" and path.suffix == ".js"
        assert ("immutable" in reply.headers["cache-control"]) == is_fixed


@pytest.mark.parametrize(
    "path", ["../ui_page.py", "core/../../app.py", "core", "x.js", "core/x.js"]
)
def test_nothing_else_is_given(http, path):
    assert http.get(f"/ui/{path.replace('../', '..%2f')}").status_code == 404


def test_a_file_comes_compressed_to_who_can_read_it(server):
    with httpx2.stream("GET", f"{server.url}/ui/main.js") as reply:
        assert reply.headers["content-encoding"] == "gzip"
        raw = b"".join(reply.iter_raw())
    assert gzip.decompress(raw) == (FOLDER / "main.js").read_bytes()


def test_the_page_is_within_its_budget():
    files = [path for path in FOLDER.rglob("*") if path.suffix in {".js", ".css", ".html", ".svg"}]
    assert sum(len(gzip.compress(path.read_bytes())) for path in files) <= LARGEST_PAGE_BYTES
    own = [path for path in files if path.parent.name != "vendor"]
    long = {path.name for path in own if path.read_text().count("\n") > LARGEST_FILE_LINES}
    assert long == set()


def test_without_the_page_there_is_none(tmp_path):
    with (
        serving(new_folder(tmp_path), CAROUSEL_UI="off") as plain,
        httpx2.Client(base_url=plain.url) as http,
    ):
        assert http.get("/", headers={"Accept": BROWSER}).status_code == 200
        assert http.get("/ui/").status_code == 404
        assert http.get("/ui/main.js").status_code == 404


def test_the_names_of_files_are_not_names_of_metrics(http, server):
    http.get("/ui/nowhere/at-all")
    log = server.log.read_text().splitlines()
    found = [json.loads(line) for line in log if "at-all" in line or "/ui/{folder}" in line]
    assert {one["route"] for one in found} <= {"/ui/{folder}/{name}"}
    assert found
