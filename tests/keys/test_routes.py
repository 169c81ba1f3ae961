"""Every route × no key, a wrong, revoked or expired one, another scope or owner, the right."""

import re
import time
from collections.abc import Iterator

import httpx2
import pytest

from service.api.access import ROUTE_SCOPES
from service.keys.authenticator import NOT_VALID
from service.keys.key import SCOPES
from service.keys.secret import make_secret, new_id
from tests.keys.people import Admin, bearer

KEYED = {route: needed for route, needed in ROUTE_SCOPES.items() if needed != "public"}
PUBLIC = [route for route, needed in ROUTE_SCOPES.items() if needed == "public"]
STOPPING = {"POST /admin/drain"}  # the right key ends the server that these tests share
OWNED = [route for route in ROUTE_SCOPES if "{session_id}" in route or "{job_id}" in route]


@pytest.fixture(scope="module")
def admin(keyed) -> Iterator[Admin]:
    with Admin(keyed.url) as holder:
        yield holder


@pytest.fixture(scope="module")
def http(keyed):
    with httpx2.Client(base_url=keyed.url, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def keys(admin) -> dict[str, str]:
    """Secrets by what is the matter with them."""
    revoked = admin.add("revoked", *SCOPES)
    admin.revoke(revoked)
    expired = admin.add("expired", *SCOPES, expires_in_s=0.01)
    time.sleep(0.05)
    return {
        "mistyped": "carousel_abc",
        "openai's": "sk-" + "a" * 48,
        "unknown": make_secret(new_id()).text,
        "wrong": make_secret(admin.add("wrong", *SCOPES)["id"]).text,
        "revoked": revoked["secret"],
        "expired": expired["secret"],
    }


@pytest.fixture(scope="module")
def right(admin) -> dict[str, str]:
    """By scope, a key that has that one alone."""
    return {scope: admin.add(f"only-{scope}", scope)["secret"] for scope in SCOPES}


@pytest.fixture(scope="module")
def lacking(admin) -> dict[str, str]:
    """By scope, a key that has every other one."""
    return {
        scope: admin.add(f"no-{scope}", *(one for one in SCOPES if one != scope))["secret"]
        for scope in SCOPES
    }


def send(http, route: str, secret: str | None, given: str = "x") -> httpx2.Response:
    method, path = route.split(" ")
    headers = {} if secret is None else bearer(secret)
    path = re.sub(r"\{\w+\}", given, path)
    return http.request(method, path, headers=headers)


def error_of(reply: httpx2.Response) -> tuple[str, str]:
    """The message and the code of an error, in the shape of its family."""
    body = reply.json()
    if reply.request.url.path.startswith("/v1"):
        assert set(body) == {"error"}
        assert set(body["error"]) == {"message", "type", "param", "code"}
        return body["error"]["message"], body["error"]["code"]
    assert set(body) == {"error", "error_type"}
    return body["error"], body["error_type"]


def unauthorized_code(route: str) -> str:
    return "invalid_api_key" if " /v1" in route else "unauthorized"


_PUBLIC_STATUSES = {"GET /ui": 308}  # leads to /ui/; a file of no name is a 404


@pytest.mark.parametrize("route", PUBLIC)
def test_a_public_route_needs_no_key_and_minds_none(http, route, keys):
    found = {send(http, route, secret).status_code for secret in (None, *keys.values())}
    assert found == {_PUBLIC_STATUSES.get(route, 404 if route.startswith("GET /ui/{") else 200)}


@pytest.mark.parametrize("route", KEYED)
def test_no_key_is_a_401_that_says_how_to_send_one(http, route):
    reply = send(http, route, None)
    assert reply.status_code == 401
    assert reply.headers["www-authenticate"].startswith("Bearer")
    message, code = error_of(reply)
    assert code == unauthorized_code(route)
    assert "Authorization: Bearer" in message


@pytest.mark.parametrize("route", KEYED)
def test_a_key_that_is_not_valid_is_a_401_that_does_not_say_why(http, route, keys):
    replies = [send(http, route, secret) for secret in keys.values()]
    assert {reply.status_code for reply in replies} == {401}
    assert {error_of(reply) for reply in replies} == {(NOT_VALID, unauthorized_code(route))}
    assert len({reply.headers["www-authenticate"] for reply in replies}) == 1


@pytest.mark.parametrize("route", [route for route, needed in KEYED.items() if needed in SCOPES])
def test_a_key_without_the_scope_is_a_403_that_names_it(http, route, lacking):
    reply = send(http, route, lacking[KEYED[route]])
    assert reply.status_code == 403
    message, code = error_of(reply)
    assert f"the scope {KEYED[route]}" in message
    assert code == "forbidden"


@pytest.mark.parametrize("route", sorted(KEYED.keys() - STOPPING))
def test_the_right_key_passes(http, route, right):
    needed = KEYED[route]
    for scope in [needed] if needed in right else right:
        assert send(http, route, right[scope]).status_code not in {401, 403, 500}


@pytest.mark.parametrize("route", ["GET /nowhere", "GET /admin/nothing", "PATCH /sessions"])
def test_what_is_no_route_says_so_to_holders_of_a_key_only(http, route, right):
    assert send(http, route, None).status_code == 401
    assert send(http, route, right["metrics"]).status_code in {404, 405}


@pytest.fixture(scope="module")
def owned(http, admin) -> dict[str, str]:
    """A session and a job of the owner `alice`, who has two keys."""
    alice = bearer(admin.add("alice-1", "generate", "train", owner="alice")["secret"])
    made = http.post("/sessions", json={"text": "The "}, headers=alice)
    text = {"Content-Type": "text/plain"} | alice
    corpus = http.post("/corpora?name=c", content=b"abcdefgh" * 4_000, headers=text)
    body = {"name": "mine", "corpus": corpus.json()["id"]}
    job = http.post("/train-jobs", json=body, headers=alice)
    assert job.status_code == 202, job.text
    return {"session_id": made.json()["id"], "job_id": job.json()["id"]}


@pytest.mark.parametrize("route", OWNED)
def test_another_owners_data_look_like_data_that_never_were(http, admin, owned, route):
    bob = admin.add("bob", "generate", "train")["secret"]
    kind = re.search(r"\{(\w+)\}", route)[1]
    theirs, nobodys = (send(http, route, bob, given) for given in (owned[kind], "0" * 16))
    assert (theirs.status_code, nobodys.status_code) in {(404, 404), (422, 422)}
    assert theirs.text.replace(owned[kind], "ID") == nobodys.text.replace("0" * 16, "ID")


def test_another_key_of_the_owner_reaches_the_same_data(http, admin, owned):
    second = bearer(admin.add("alice-2", "generate", "train", owner="alice")["secret"])
    assert http.get(f"/sessions/{owned['session_id']}", headers=second).status_code == 200
    jobs = http.get("/train-jobs", headers=second).json()["jobs"]
    assert [job["id"] for job in jobs] == [owned["job_id"]]
    bob = bearer(admin.add("bob", "train")["secret"])
    assert http.get("/train-jobs", headers=bob).json()["jobs"] == []
    assert http.get("/corpora", headers=bob).json()["corpora"] == []


def test_x_api_key_is_as_good_and_the_url_is_not(http, right):
    secret = right["generate"]
    assert http.get("/v1/models", headers={"X-API-Key": secret}).status_code == 200
    assert http.get("/v1/models", headers={"Authorization": f"bearer  {secret}"}).status_code == 200
    for name in ("key", "api_key", "access_token"):
        assert http.get("/v1/models", params={name: secret}).status_code == 401
    both = bearer(secret) | {"X-API-Key": right["train"]}
    assert http.get("/v1/models", headers=both).status_code == 401


def test_the_log_says_why_and_has_no_secret(keyed, http, keys, right):
    for name, secret in keys.items():
        http.get("/v1/models", headers=bearer(secret) | {"X-Request-Id": name.replace("'", "")})
    http.get("/admin/models", headers=bearer(right["train"]) | {"X-Request-Id": "scope"})
    until_s = time.monotonic() + 10  # a line is written after the reply
    while '"scope"' not in (log := keyed.log.read_text()) and time.monotonic() < until_s:
        time.sleep(0.05)
    for name, reason in {
        "mistyped": "malformed",
        "unknown": "unknown",
        "wrong": "bad secret",
        "revoked": "revoked",
        "expired": "expired",
        "scope": "forbidden",
    }.items():
        (line,) = (line for line in log.splitlines() if f'"request_id": "{name}"' in line)
        assert f'"key_refusal": "{reason}"' in line
    assert not any(secret in log for secret in (*keys.values(), *right.values()))


def test_a_key_that_names_models_has_no_others(http, admin):
    named = bearer(admin.add("other", "generate", models=["other"])["secret"])
    body = {"inputs": "The ", "parameters": {"max_new_tokens": 1}}
    refused = http.post("/generate", json=body, headers=named)
    assert (refused.status_code, refused.json()["error_type"]) == (403, "forbidden")
    for name in ("demo", "demo@1", "default", "nothing"):
        reply = http.get(f"/v1/models/{name}", headers=named)
        assert reply.status_code == 403
        assert reply.json()["error"]["message"] == "this key may use no other models than other"
    assert http.get("/v1/models/other", headers=named).status_code == 404, "it is not there yet"
    assert http.get("/v1/models", headers=named).json()["data"] == []
    assert http.get("/info", headers=named).json()["models"] == []
    for name in ("demo", "demo@1"):
        demo = bearer(admin.add("d", "generate", models=[name])["secret"])
        assert http.post("/generate", json=body, headers=demo).status_code == 200
        rows = http.get("/v1/models", headers=demo).json()["data"]
        assert {row["id"] for row in rows} == {"demo@1", "default"}
        assert http.get("/v2/models/demo", headers=demo).json()["versions"] == ["1"]
    second = bearer(admin.add("two", "generate", models=["demo@2"])["secret"])
    assert http.get("/v2/models/demo", headers=second).status_code == 403
    assert http.get("/v2/models/demo", headers=named).status_code == 403


def test_an_admin_key_does_not_generate(admin):
    assert admin.http.get("/admin/models").status_code == 200
    assert admin.http.get("/v1/models").status_code == 403
