"""What a server takes from a browser: by Host, Origin, Sec-Fetch-Site and Content-Type."""

import hashlib
from base64 import b64encode

import httpx2
import pytest

from service.api.access import ROUTE_SCOPES
from service.api.browser_guard import BrowserGuard, host_name
from service.api.docs_page import DIGESTS, STATIC
from service.errors import BadRequest
from service.settings import Settings
from tests.keys.conftest import new_folder
from tests.process import serving

CHANGING = [route for route in ROUTE_SCOPES if route.split(" ")[0] not in {"GET", "HEAD"}]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = new_folder(tmp_path_factory.mktemp("home"))
    settings = {
        "CAROUSEL_ALLOWED_HOSTS": "carousel.example, other.example",
        "CAROUSEL_CORS_ORIGINS": "https://chat.example.com",
    }
    with serving(folder, **settings) as running:
        yield running.url


@pytest.fixture
def http(url):
    with httpx2.Client(base_url=url, timeout=30) as client:
        yield client


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("localhost", "localhost"),
        ("LocalHost:8000", "localhost"),
        ("localhost.", "localhost"),
        ("127.0.0.1:8000", "127.0.0.1"),
        ("[::1]", "::1"),
        ("[::1]:8000", "::1"),
        ("", None),
        (":8000", None),
        ("a b", None),
        ("localhost:80x", None),
        ("[localhost]", None),
        ("localhost/evil", None),
        ("user@localhost", None),
        ("localhost,evil.example", None),
    ],
)
def test_the_name_in_a_host_header(host, name):
    assert host_name(host) == name


@pytest.mark.parametrize(
    "host",
    ["localhost", "127.0.0.1", "[::1]:1", "10.1.2.3:8000", "carousel.example", "OTHER.example:443"],
)
def test_names_of_the_server_and_addresses_are_answered(http, host):
    assert http.get("/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.example"]
)
@pytest.mark.parametrize("path", ["/", "/v1/models", "/docs", "/nowhere"])
def test_another_name_is_refused_on_every_path(http, path, host):
    reply = http.get(path, headers={"Host": host})
    assert reply.status_code == 421
    if not path.startswith("/v1"):
        assert reply.json()["error_type"] == "invalid_host"
        assert "CAROUSEL_ALLOWED_HOSTS" in reply.json()["error"]


def sent_by(page: str) -> dict[str, dict[str, str]]:
    """Headers that browsers add to a request of a page of another origin."""
    return {
        "cross-site": {"Origin": page, "Sec-Fetch-Site": "cross-site"},
        "same-site": {"Origin": "http://localhost:1", "Sec-Fetch-Site": "same-site"},
        "opaque": {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
        "without Sec-Fetch": {"Origin": page},
        "opaque, without Sec-Fetch": {"Origin": "null"},
        "without Origin": {"Sec-Fetch-Site": "cross-site"},
    }


@pytest.mark.parametrize("route", CHANGING)
def test_a_page_of_another_origin_changes_nothing(http, route):
    method, path = route.split(" ")
    for headers in sent_by("http://evil.example").values():
        reply = http.request(method, path, headers=headers)
        assert reply.status_code == 403
        if not path.startswith("/v1"):
            assert reply.json()["error_type"] == "cross_origin"


def test_no_page_is_told_that_it_may(http):
    preflight = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    assert http.request("OPTIONS", "/generate", headers=preflight).status_code in {400, 403}
    read = http.get("/v1/models", headers={"Origin": "http://evil.example"})
    assert read.status_code == 200
    assert "access-control-allow-origin" not in read.headers
    assert read.headers["cross-origin-resource-policy"] == "same-origin"


def test_a_page_of_an_origin_that_is_named_may(http):
    page = {"Origin": "https://chat.example.com", "Sec-Fetch-Site": "cross-site"}
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
    allowed = http.request("OPTIONS", "/generate", headers=page | asks)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == page["Origin"]
    body = {"inputs": "The ", "parameters": {"max_new_tokens": 1}}
    reply = http.post("/generate", json=body, headers=page)
    assert reply.status_code == 200
    assert reply.headers["access-control-allow-origin"] == page["Origin"]


def test_the_servers_own_page_and_programs_may(http, url):
    body = {"inputs": "The ", "parameters": {"max_new_tokens": 1}}
    for headers in (
        {},
        {"Origin": url, "Sec-Fetch-Site": "same-origin"},
        {"Origin": url},
        {"Sec-Fetch-Site": "none"},
    ):
        assert http.post("/generate", json=body, headers=headers).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
@pytest.mark.parametrize(
    "path", ["/generate", "/", "/v1/completions", "/sessions", "/tokenize", "/train-jobs"]
)
def test_a_body_of_another_type_is_no_json(http, path, kind):
    headers = {"Content-Type": kind} if kind else {}
    reply = http.post(path, content=b'{"inputs": "The "}', headers=headers)
    assert reply.status_code == 422
    assert "Content-Type: application/json" in reply.text


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/nowhere", "/openapi.json", "/docs"])
def test_every_reply_has_the_headers_of_a_careful_server(http, path):
    headers = http.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cache-control"] == "no-store"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert ("script-src 'self'" in headers["content-security-policy"]) == (path == "/docs")


def test_a_stream_keeps_its_own_cache_control(http):
    body = {"inputs": "The ", "parameters": {"max_new_tokens": 1}}
    headers = http.post("/generate_stream", json=body).headers
    assert headers.get_list("cache-control") == ["no-cache, no-transform"]


def test_the_files_of_the_page_are_the_ones_that_were_reviewed(http):
    for name, digest in DIGESTS.items():
        content = (STATIC / name).read_bytes()
        assert b64encode(hashlib.sha256(content).digest()).decode() == digest
        assert http.get(f"/docs/{name}").content == content
        assert f"sha256-{digest}" in http.get("/docs").text
    assert http.get("/docs/NOTICE").status_code == 422
    assert http.get("/docs/..%2fdocs_page.py").status_code in {404, 422}


def test_a_request_has_one_host_header():
    guard = BrowserGuard([], [])
    one = (b"host", b"localhost")
    scope = {"type": "http", "method": "GET", "path": "/", "http_version": "1.1"}
    guard.check(scope | {"headers": [one]})
    for headers in ([], [one, one], [one, (b"host", b"evil.example")], [(b"host", b"")]):
        with pytest.raises(BadRequest):
            guard.check(scope | {"headers": headers})
    guard.check(scope | {"headers": [], "http_version": "1.0"})  # it has no Host


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("allowed_hosts", "localhost:8000"),
        ("allowed_hosts", "http://a.example"),
        ("cors_origins", "*"),
        ("cors_origins", "chat.example.com"),
        ("cors_origins", "https://chat.example.com/"),
    ],
)
def test_names_and_origins_that_cannot_be_meant_are_refused(name, value):
    with pytest.raises(BadRequest, match=f"CAROUSEL_{name.upper()}"):
        Settings.read(**{name: value})
