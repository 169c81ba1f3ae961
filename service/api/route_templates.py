"""The path templates of the app's routes: the only names of routes in metrics and logs."""

from collections.abc import Iterable

from starlette.routing import compile_path
from starlette.types import Scope

from service.api.access import ROUTE_SCOPES
from service.metrics.families import OTHER

MAX_PATH_CHARACTERS = 200
_SESSION = "/sessions/{session_id}"


class RouteTemplates:
    """Finds a request's template, and its path without what gives access to something.

    A session id gives access to its session, whatever path it stands in by mistake. So of a path
    with one, and of a path that is none of ours, only words of the templates are shown whole.
    """

    def __init__(self, routes: Iterable[str] = ROUTE_SCOPES) -> None:
        """`routes` are methods and templates, such as those of ROUTE_SCOPES."""
        self._templates = {route.split(" ", 1)[1] for route in routes}
        self._patterns = [
            (compile_path(one)[0], one) for one in sorted(self._templates) if "{" in one
        ]
        self._words = {
            word for one in self._templates for word in one.split("/") if "{" not in word
        }

    def of(self, scope: Scope) -> str:
        """Return the template of a request's path; `other` where no route has such a path."""
        template = getattr(scope.get("route"), "path", None)
        if template in self._templates:
            return str(template)
        path = scope["path"]  # refused before the router has seen it
        if path in self._templates:
            return str(path)
        return next((one for pattern, one in self._patterns if pattern.match(path)), OTHER)

    def shown_path(self, path: str, template: str) -> str:
        """Return a path for a log record."""
        if template != OTHER and not template.startswith(_SESSION):
            return path
        shown, before = [], ""
        for part in path[:MAX_PATH_CHARACTERS].split("/"):
            is_word = part in self._words and before != "sessions"
            shown.append(part if is_word else _shortened(part))
            before = part.casefold() or before
        return "/".join(shown)


def _shortened(part: str) -> str:
    return f"{part[: min(6, len(part) // 2)]}…" if part else ""
