"""Routes that FastAPI describes and does not call: they answer as if it did."""

import json

import httpx2
import pytest
from fastapi import APIRouter, FastAPI, Request, Response

from service.api.direct_route import direct_routes
from service.api.errors import ErrorReplies
from service.api.exchange import EXCHANGE, Exchange
from service.api.fields import Body
from service.errors import Overloaded

ROUTES = ["/generate", "/generate_stream", "/", "/v1/completions", "/v1/chat/completions"]
JSON = {"Content-Type": "application/json"}


class Sum(Body):
    a: int
    b: int = 1


def make_app() -> tuple[FastAPI, dict]:
    router = APIRouter()

    @router.post("/sum", response_class=Response)
    async def add(request: Request, body: Sum) -> Response:
        if body.a < 0:
            raise Overloaded("too much")
        direct = b"direct" if "route" not in request.scope else b"by the router"
        return Response(b"%d %s" % (body.a + body.b, direct))

    @router.post("/sum/{n}", response_class=Response)
    async def with_path(request: Request, body: Sum, n: int) -> Response:
        raise NotImplementedError

    @router.post("/model")
    async def serialized(request: Request, body: Sum) -> Sum:
        raise NotImplementedError

    app, errors = FastAPI(), ErrorReplies({})
    errors.install(app)
    app.include_router(router)
    return app, direct_routes([router], errors)(app)


async def answer(content: bytes, *headers: tuple[bytes, bytes], pieces: int = 1) -> tuple:
    app, direct = make_app()
    size = -(-len(content) // pieces) or 1
    parts = [content[i : i + size] for i in range(0, len(content), size)] or [b""]
    waiting = [
        {"type": "http.request", "body": part, "more_body": i < len(parts) - 1}
        for i, part in enumerate(parts)
    ]
    sent = []

    async def receive() -> dict:
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message: dict) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/sum", "query_string": b"", "app": app}
    scope |= {"headers": list(headers), "state": {EXCHANGE: Exchange("", send)}}
    await direct["POST", "/sum"](scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


def test_only_a_post_of_a_fixed_path_with_a_body_and_a_reply_of_its_own_is_direct():
    _, direct = make_app()
    assert list(direct) == [("POST", "/sum")]


@pytest.mark.parametrize("kind", [b"application/json", b"Application/JSON; charset=utf-8"])
@pytest.mark.parametrize("pieces", [1, 3])
async def test_a_valid_body_reaches_the_route_without_the_router(kind, pieces):
    found = await answer(b'{"a": 2, "b": 3}', (b"content-type", kind), pieces=pieces)
    assert found == (200, b"5 direct")


async def test_a_body_that_json_types_allow_is_read_by_the_router():
    found = await answer(b'{"a": 2}', (b"content-type", b"application/problem+json"))
    assert found == (200, b"3 by the router")


async def test_an_error_of_the_route_has_the_shape_of_every_error():
    status, body = await answer(b'{"a": -1}', (b"content-type", b"application/json"))
    assert (status, json.loads(body)) == (429, {"error": "too much", "error_type": "overloaded"})


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    ("content", "headers", "status", "sentence"),
    [
        (b"{", JSON, 400, "the body is not JSON"),
        (b'{"inputs": "\xff"}', JSON, 400, "pars"),
        (b"[" * 5_000, JSON, None, ""),
        (b"", JSON, 422, "is required"),
        (b"[]", JSON, 422, "dictionary"),
        (b'{"nothing": 1}', JSON, 422, "nothing"),
        (b"{}", {"Content-Type": "text/plain"}, 422, "only with the header Content-Type"),
        (b"{}", {}, 422, "only with the header Content-Type"),
        (b"{}", JSON | {"Content-Encoding": "gzip"}, 415, "Content-Encoding"),
    ],
)
def test_what_is_no_body_of_a_route_is_refused_by_name(
    http: httpx2.Client, path, content, headers, status, sentence
):
    reply = http.post(path, content=content, headers=headers)
    assert reply.status_code == status if status else 400 <= reply.status_code < 500
    error = reply.json()["error"]
    message = error["message"] if path.startswith("/v1/") else error
    assert sentence in message


def test_a_path_that_is_almost_one_of_a_route_goes_to_the_router(http: httpx2.Client):
    body = {"inputs": "The ", "parameters": {"max_new_tokens": 1}}
    assert http.post("/generate?stream=1", json=body).status_code == 200
    assert http.get("/generate").status_code == 405
    assert http.post("/generates", json=body).status_code == 404
