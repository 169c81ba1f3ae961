"""The page under /ui/: files of this package, held in memory, and nothing of any other server."""

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request, Response

from service.api import health

FOLDER = Path(__file__).parents[1] / "ui"

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""What the page may load: its own server's files. No string becomes markup or a script."""

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
_FOREVER = "public, max-age=31536000, immutable"  # the name of a vendored module has its version
_INDEX = "index.html"


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file of the page with its headers, and its bytes as they are and compressed."""

    content: bytes
    compressed: bytes
    headers: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> "PageFile":
        """Read a file of the page."""
        content = path.read_bytes()
        is_fixed = path.parent.name == "vendor" and path.suffix == ".js"
        headers = {
            "Content-Type": _TYPES[path.suffix],
            "Content-Security-Policy": POLICY,
            "Cache-Control": _FOREVER if is_fixed else "no-cache",
            "ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"',
            "Vary": "Accept-Encoding",
        }
        return cls(content, gzip.compress(content, mtime=0), headers)

    def reply_to(self, request: Request) -> Response:
        """Return the file, or 304 where the browser has it."""
        known = request.headers.get("if-none-match", "")
        if self.headers["ETag"] in {one.strip().removeprefix("W/") for one in known.split(",")}:
            return Response(status_code=304, headers=dict(self.headers))
        if "gzip" in request.headers.get("accept-encoding", ""):
            encoded = {"Content-Encoding": "gzip"}
            return Response(self.compressed, headers={**self.headers, **encoded})
        return Response(self.content, headers=dict(self.headers))


def page_files(folder: Path = FOLDER) -> dict[str, PageFile]:
    """Return every file of the page by its path: nothing else is ever read for a request."""
    return {
        path.relative_to(folder).as_posix(): PageFile.read(path)
        for path in sorted(folder.rglob("*"))
        if path.suffix in _TYPES
    }


def prefers_html(accept: str) -> bool:
    """Return whether a page is wanted rather than data: what browsers send says so, `*/*` not."""
    weights = {"text/html": 0.0, "application/json": 0.0}
    for part in accept.lower().split(","):
        kind, *parameters = (one.strip() for one in part.split(";"))
        weight = next((one[2:] for one in parameters if one.startswith("q=")), "1")
        if kind in weights:
            weights[kind] = _number(weight)
    return weights["text/html"] > weights["application/json"]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def make_router(*, has_page: bool) -> APIRouter:
    """Return the routes of the page, and GET /, which leads browsers there.

    Without the page GET / is the readiness alone, as it is for every other client.
    """
    router = APIRouter(include_in_schema=False)
    if not has_page:
        router.add_api_route("/", health.ready, methods=["GET"])
        return router
    files = page_files()

    def found(request: Request, path: str) -> Response:
        if path not in files:
            raise HTTPException(404)
        return files[path].reply_to(request)

    @router.get("/")
    async def root(request: Request) -> Response:
        """Lead a browser to the page; tell others whether the server is ready."""
        if prefers_html(request.headers.get("accept", "")):
            return Response(status_code=303, headers={"Location": "ui/", "Vary": "Accept"})
        return await health.ready(request)

    @router.get("/ui")
    async def without_slash() -> Response:
        """Lead to the page: its files are beside it."""
        return Response(status_code=308, headers={"Location": "ui/"})

    @router.get("/ui/")
    async def page(request: Request) -> Response:
        """Return the page."""
        return found(request, _INDEX)

    @router.get("/ui/{name}")
    async def page_file(request: Request, name: str) -> Response:
        """Return a file of the page."""
        return found(request, name)

    @router.get("/ui/{folder}/{name}")
    async def file_of_folder(request: Request, folder: str, name: str) -> Response:
        """Return a file of a part of the page."""
        return found(request, f"{folder}/{name}")

    return router
