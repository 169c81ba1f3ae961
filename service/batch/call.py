"""One call of a route, and its reply: what a line of a batch becomes."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

ROUTES: Mapping[str, str] = {
    "/v1/completions": "prompt",
    "/v1/chat/completions": "messages",
    "/v1/embeddings": "input",
    "/generate": "inputs",
    "/score": "inputs",
}
"""The routes that a line may name, and the member by which a body without a route is known."""


@dataclass(frozen=True, slots=True)
class RouteCall:
    """A POST of a JSON body to a route; `seed` applies where the body gives none."""

    path: str
    body: bytes
    seed: int


@dataclass(frozen=True, slots=True)
class RouteReply:
    """The reply of a route: a status and a JSON body."""

    status: int
    body: bytes


Answer = Callable[[RouteCall], Awaitable[RouteReply]]
