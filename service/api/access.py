"""The one table of what each route needs: a scope of the caller's key, any key, or nothing."""

from collections.abc import Mapping
from typing import Literal

from starlette.routing import compile_path

from service.api.caller import KeyScope

Access = KeyScope | Literal["public", "any", "docs"]
"""`public`: no key. `any`: a key of any scope. `docs`: a key, unless the pages are public."""

ROUTE_SCOPES: Mapping[str, Access] = {
    "GET /": "public",
    "GET /ping": "public",
    "GET /health": "public",
    "GET /health/live": "public",
    "GET /health/ready": "public",
    "GET /v2/health/live": "public",
    "GET /v2/health/ready": "public",
    "GET /v2": "any",
    "GET /v2/models/{name}": "generate",
    "GET /v2/models/{name}/ready": "generate",
    "GET /v2/models/{name}/versions/{version}": "generate",
    "GET /v2/models/{name}/versions/{version}/ready": "generate",
    "GET /docs": "docs",
    "GET /docs/{name}": "docs",
    "GET /openapi.json": "docs",
    "GET /ui": "public",
    "GET /ui/": "public",
    "GET /ui/{name}": "public",
    "GET /ui/{folder}/{name}": "public",
    "GET /info": "any",
    "GET /metrics": "metrics",
    "POST /": "generate",
    "POST /generate": "generate",
    "POST /generate_stream": "generate",
    "POST /v1/completions": "generate",
    "POST /v1/chat/completions": "generate",
    "POST /v1/embeddings": "generate",
    "GET /v1/models": "generate",
    "GET /v1/models/{name}": "generate",
    "POST /v1/files": "generate",
    "GET /v1/files": "generate",
    "GET /v1/files/{file_id}": "generate",
    "GET /v1/files/{file_id}/content": "generate",
    "DELETE /v1/files/{file_id}": "generate",
    "POST /v1/batches": "generate",
    "GET /v1/batches": "generate",
    "GET /v1/batches/{batch_id}": "generate",
    "POST /v1/batches/{batch_id}/cancel": "generate",
    "POST /tokenize": "generate",
    "POST /detokenize": "generate",
    "POST /score": "generate",
    "POST /score/text": "generate",
    "POST /inspect": "generate",
    "POST /inspect/statistics": "generate",
    "POST /inspect/text": "generate",
    "POST /inspect/ablate": "generate",
    "POST /inspect/cells": "generate",
    "POST /inspect/influence": "generate",
    "GET /sessions": "generate",
    "POST /sessions": "generate",
    "POST /sessions/import": "generate",
    "GET /sessions/{session_id}": "generate",
    "DELETE /sessions/{session_id}": "generate",
    "GET /sessions/{session_id}/text": "generate",
    "POST /sessions/{session_id}/append": "generate",
    "POST /sessions/{session_id}/fork": "generate",
    "POST /sessions/{session_id}/rewind": "generate",
    "POST /sessions/{session_id}/cancel": "generate",
    "GET /sessions/{session_id}/state": "generate",
    "GET /sessions/{session_id}/events": "generate",
    "POST /corpora": "train",
    "GET /corpora": "train",
    "DELETE /corpora/{corpus_id}": "train",
    "POST /train-jobs": "train",
    "GET /train-jobs": "train",
    "GET /train-jobs/{job_id}": "train",
    "DELETE /train-jobs/{job_id}": "train",
    "POST /train-jobs/{job_id}/cancel": "train",
    "POST /train-jobs/{job_id}/publish": "train",
    "GET /train-jobs/{job_id}/events": "train",
    "POST /v1/fine_tuning/jobs": "train",
    "GET /v1/fine_tuning/jobs": "train",
    "GET /v1/fine_tuning/jobs/{job_id}": "train",
    "POST /v1/fine_tuning/jobs/{job_id}/cancel": "train",
    "GET /v1/fine_tuning/jobs/{job_id}/events": "train",
    "GET /v1/fine_tuning/jobs/{job_id}/checkpoints": "train",
    "GET /admin/audit": "admin",
    "GET /admin/models": "admin",
    "POST /admin/models": "admin",
    "POST /admin/models/upload": "admin",
    "POST /admin/models/{ref}/load": "admin",
    "POST /admin/models/{ref}/unload": "admin",
    "DELETE /admin/models/{ref}": "admin",
    "GET /admin/models/{ref}/chat-template": "admin",
    "PUT /admin/models/{ref}/chat-template": "admin",
    "DELETE /admin/models/{ref}/chat-template": "admin",
    "GET /admin/usage": "admin",
    "PUT /admin/aliases/{alias}": "admin",
    "DELETE /admin/aliases/{alias}": "admin",
    "GET /admin/fleet": "admin",
    "GET /admin/keys": "admin",
    "POST /admin/keys": "admin",
    "POST /admin/keys/{key_id}/rotate": "admin",
    "DELETE /admin/keys/{key_id}": "admin",
    "POST /admin/drain": "admin",
    "GET /admin/drain": "admin",
}
"""By method and path template. HEAD is as GET. Every route has its entry."""


class RouteAccess:
    """Finds what a request needs, before the router has seen it."""

    def __init__(self, routes: Mapping[str, Access] = ROUTE_SCOPES) -> None:
        self._fixed = {(one.split(" ")[0], one.split(" ")[1]): routes[one] for one in routes}
        self._patterns = [
            (method, compile_path(path)[0], access)
            for (method, path), access in self._fixed.items()
            if "{" in path
        ]

    def needed(self, method: str, path: str) -> Access:
        """Return what a request needs; `any` where there is no such route."""
        method = "GET" if method == "HEAD" else method
        # Starlette's patterns end with `$`, which matches before a last newline, too.
        found = self._fixed.get((method, path.removesuffix("\n")))
        if found is not None:
            return found
        for one, pattern, access in self._patterns:
            if one == method and pattern.match(path):
                return access
        return "any"
