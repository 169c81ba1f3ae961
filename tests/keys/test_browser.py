"""A real browser: what a page of another origin and a rebound name can do to a running server."""

import http.server
import json
import re
import shutil
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from service.api.access import ROUTE_SCOPES
from tests.keys.conftest import new_folder
from tests.process import Server, free_port, serving

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

NAMES = "MAP evil.example 127.0.0.1, MAP rebound.example 127.0.0.1"
# Browsers of today lack this check of theirs, or ask the user, who may agree.
LATER = "LocalNetworkAccessChecks,PrivateNetworkAccessSendPreflights"

# Sends each request as a page may, and returns what the page could read.
ATTACK = """
async ([target, routes]) => {
  const read = [];
  for (const [method, path] of routes) {
    const hasBody = method !== "GET" && method !== "DELETE";
    for (const [mode, type] of [["cors", "application/json"], ["cors", "text/plain"],
                                ["no-cors", "text/plain"]]) {
      if (mode === "no-cors" && !["GET", "POST"].includes(method)) continue;
      try {
        const reply = await fetch(target + path, {
          method, mode, credentials: "include", signal: AbortSignal.timeout(3000),
          headers: hasBody ? {"Content-Type": type} : {},
          body: hasBody ? '{"inputs": "The ", "text": "The ", "model": "demo@1"}' : undefined,
        });
        read.push([method, path, reply.type, reply.status, await reply.text()]);
      } catch (error) {}
    }
  }
  return read;
}
"""

# Submits the forms that a page can send to a server without asking.
FORMS = """
async ([target, paths]) => {
  for (const path of paths) {
    for (const enctype of ["text/plain", "multipart/form-data"]) {
      const frame = document.createElement("iframe");
      frame.name = path + enctype;
      document.body.append(frame);
      const form = document.createElement("form");
      Object.assign(form, {action: target + path, method: "POST", enctype, target: frame.name});
      const field = document.createElement("input");
      Object.assign(field, {name: "name", value: "evil"});
      form.append(field);
      document.body.append(form);
      const done = new Promise((resolve) => { frame.onload = resolve; });
      form.submit();
      await Promise.race([done, new Promise((resolve) => setTimeout(resolve, 2000))]);
    }
  }
}
"""

# Includes what a page may include without asking, and returns what was loaded.
INCLUSIONS = """
async ([target, paths]) => {
  const loaded = [];
  for (const path of paths) {
    for (const tag of ["script", "img", "iframe"]) {
      const element = document.createElement(tag);
      const done = new Promise((resolve) => {
        element.onload = () => { if (tag !== "iframe") loaded.push([tag, path]); resolve(); };
        element.onerror = resolve;
      });
      element.src = target + path;
      document.body.append(element);
      await Promise.race([done, new Promise((resolve) => setTimeout(resolve, 1000))]);
      try {
        if (tag === "iframe" && element.contentDocument.body.innerText) loaded.push([tag, path]);
      } catch (error) {}
    }
  }
  return loaded;
}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    """A server as people start it first: on the loopback address, without keys."""
    with serving(new_folder(tmp_path_factory.mktemp("home"))) as running:
        yield running


@pytest.fixture(scope="module")
def stranger(tmp_path_factory) -> Iterator[str]:
    """The address of a page of another origin."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "index.html").write_text("<!DOCTYPE html><title>kittens</title><body></body>")

    class Pages(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", free_port()), Pages) as pages:
        thread = threading.Thread(target=pages.serve_forever)
        thread.start()
        yield f"http://evil.example:{pages.server_address[1]}/"
        pages.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    arguments = ["--no-sandbox", f"--host-resolver-rules={NAMES}", f"--disable-features={LATER}"]
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield running
        running.close()


@pytest.fixture
def page(browser) -> Iterator[Any]:
    with browser.new_context() as context:
        yield context.new_page()


@pytest.fixture(scope="module")
def routes(server) -> list[tuple[str, str]]:
    """Every route, with things that exist."""
    session = httpx2.post(f"{server.url}/sessions", json={"text": "The "}).json()["id"]
    given = {"session_id": session, "ref": "demo@1", "alias": "default", "name": "demo"}
    filled = (
        re.sub(r"\{(\w+)\}", lambda found: given.get(found[1], "x"), route)
        for route in ROUTE_SCOPES
    )
    return [(method, path) for method, path in (route.split(" ") for route in filled)]


def contents(server: Server, routes: list[tuple[str, str]]) -> list[Any]:
    """Everything that a request may change."""
    (session,) = {path for _, path in routes if re.fullmatch(r"/sessions/[a-z2-7]{34}", path)}
    paths = [session, "/admin/models", "/admin/keys", "/corpora", "/train-jobs", "/v1/models"]
    found = [httpx2.get(server.url + path) for path in paths]
    assert {reply.status_code for reply in found} == {200}
    return [reply.json() for reply in found]


def requests_logged(server: Server) -> list[dict[str, Any]]:
    lines = server.log.read_text().splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return [one for one in found if one.get("logger") == "carousel.requests"]


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_a_page_of_another_origin_reads_and_changes_nothing(server, stranger, page, routes, name):
    before, target = contents(server, routes), f"http://{name}:{server.port}"
    n_before = len(requests_logged(server))
    page.goto(stranger)
    read = page.evaluate(ATTACK, [target, routes])
    assert [one for one in read if one[2] != "opaque" or one[4]] == []
    page.evaluate(FORMS, [target, [path for method, path in routes if method == "POST"]])
    readable = [path for method, path in routes if method == "GET"]
    assert page.evaluate(INCLUSIONS, [target, readable]) == []
    assert contents(server, routes) == before
    seen = requests_logged(server)[n_before:]
    refused = {one["path"] for one in seen if one["status"] == 403}
    assert len(refused) > 20, "the requests have reached the server"
    assert {one["status"] for one in seen if one["method"] in {"POST", "PUT", "DELETE"}} == {403}


def test_a_rebound_name_reads_and_changes_nothing(server, page, routes):
    before, origin = contents(server, routes), f"http://rebound.example:{server.port}"
    page.route(f"{origin}/first", lambda route: route.fulfill(body="<!DOCTYPE html><body>"))
    page.goto(f"{origin}/first")  # before the name was rebound
    read = page.evaluate(ATTACK, [origin, routes])
    assert len(read) > len(routes), "to the browser it is the same origin, so it reads the replies"
    assert {status for _, _, _, status, _ in read} == {421}
    assert page.goto(f"{origin}/docs").status == 421
    assert contents(server, routes) == before


def test_the_documentation_needs_no_other_server(server, page):
    requested, complaints = [], []
    page.on("request", lambda request: requested.append(request.url))
    page.on("console", lambda line: line.type == "error" and complaints.append(line.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"{server.url}/docs")
    page.wait_for_selector(".opblock-post", timeout=60_000)
    page.click(".opblock-post .opblock-summary-control >> nth=0", timeout=20_000)
    page.wait_for_selector(".opblock-body")
    assert complaints == []
    outside = [url for url in requested if not url.startswith((f"{server.url}/", "data:"))]
    assert outside == []
    assert f"{server.url}/openapi.json" in requested


def test_a_request_from_the_documentation_is_answered(server, page):
    page.goto(f"{server.url}/docs")
    found = page.evaluate(
        """async () => {
          const body = JSON.stringify({inputs: "The ", parameters: {max_new_tokens: 1}});
          const headers = {"Content-Type": "application/json"};
          return (await fetch("/generate", {method: "POST", headers, body})).status;
        }"""
    )
    assert found == 200
