"""The routes of the app, as the router has them."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import SecretStr

from service.app import create_app
from service.settings import Settings


def routes() -> Iterator[tuple[str, str]]:
    """Each method and path template, without the HEAD that a GET has as well."""
    settings = Settings(secret=SecretStr("0" * 32), data_dir=Path("not made"))
    yield from _walk(create_app(settings, "redis://localhost").routes)


def _walk(found: list) -> Iterator[tuple[str, str]]:
    for route in found:
        if hasattr(route, "original_router"):
            yield from _walk(route.original_router.routes)
        else:
            yield from ((method, route.path) for method in route.methods - {"HEAD"})
