"""The gate of a replica, as an ASGI app."""

import ipaddress

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from service.ray.gate import REFUSAL, IngressGate
from service.ray.ingress import INGRESS_HEADER, ingress_token

TOKEN = ingress_token("a-secret-that-every-node-has-and-nobody-else")


async def echo(request: Request) -> JSONResponse:
    assert request.client is not None
    return JSONResponse([request.client.host, *sorted(request.headers)])


@pytest.fixture
def client() -> TestClient:
    app = Starlette(routes=[Route("/{path:path}", echo)])
    trusted = (ipaddress.ip_network("10.0.0.0/8"),)
    return TestClient(IngressGate(app, TOKEN, "1-abc", trusted))


@pytest.mark.parametrize(
    ("forwarded", "client_address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7, 10.0.0.2", "192.0.2.7"),
        ("1.1.1.1, 192.0.2.7, 10.0.0.3, 10.0.0.2", "192.0.2.7"),
        ("1.1.1.1, 192.0.2.7", "192.0.2.7"),  # which its sender has made up
        ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
    ],
)
def test_the_client_is_who_haproxy_and_the_trusted_proxies_say(client, forwarded, client_address):
    headers = {INGRESS_HEADER: TOKEN, "X-Forwarded-For": forwarded}
    assert client.get("/x", headers=headers).json()[0] == client_address


def test_what_haproxy_has_sent_is_served_and_the_app_does_not_see_the_token(client):
    reply = client.get("/x", headers={INGRESS_HEADER: TOKEN})
    assert reply.status_code == 200
    assert INGRESS_HEADER not in reply.json()
    assert reply.headers["X-Carousel-Process"] == "1-abc"


@pytest.mark.parametrize("given", [[], [""], ["0" * 64], [TOKEN[:-1]], [TOKEN, TOKEN]])
def test_everything_else_is_refused_in_the_shape_of_its_path(client, given):
    headers = [(INGRESS_HEADER, one) for one in given]
    reply = client.get("/generate", headers=headers)
    assert (reply.status_code, reply.json()) == (
        403,
        {"error": REFUSAL, "error_type": "forbidden"},
    )
    reply = client.get("/v1/models", headers=headers)
    assert reply.json()["error"] == {
        "message": REFUSAL,
        "type": "permission_error",
        "param": None,
        "code": "forbidden",
    }
