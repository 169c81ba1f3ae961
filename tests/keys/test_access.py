"""Every route says what it needs of a key, and is found by the request that would reach it."""

import re

import pytest

from service.api.access import ROUTE_SCOPES, RouteAccess
from tests.keys.routes import routes
from tools.scopes import PAGE, page_with_scopes


def test_every_route_is_in_the_table_and_nothing_else_is():
    assert sorted(f"{method} {path}" for method, path in routes()) == sorted(ROUTE_SCOPES)


@pytest.mark.parametrize("route", ROUTE_SCOPES)
def test_a_request_needs_what_its_route_says(route):
    method, path = route.split(" ")
    assert RouteAccess().needed(method, re.sub(r"\{\w+\}", "x", path)) == ROUTE_SCOPES[route]


def test_a_head_request_needs_what_the_get_needs():
    assert RouteAccess().needed("HEAD", "/health") == "public"
    assert RouteAccess().needed("HEAD", "/admin/models") == "admin"


@pytest.mark.parametrize("path", ["/nowhere", "//health", "/health/", "/HEALTH", "/sessions/a/b/c"])
def test_what_is_no_route_is_not_public(path):
    assert RouteAccess().needed("GET", path) == "any"


def test_the_page_has_the_table():
    assert PAGE.read_text() == page_with_scopes(), "run `make docs`"
