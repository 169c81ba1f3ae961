"""A bare FastAPI route to compare with: it validates the body of /generate and answers at once.

It is served by uvicorn as Carousel is, with the same event loop and parser and without a log.
"""

import sys

import uvicorn
from fastapi import FastAPI, Response

from service.api.tgi.schemas import GenerateBody

REPLY = b'{"generated_text":"e"}'


def make_app() -> FastAPI:
    """Return the app: one route, and what FastAPI adds to it."""
    app = FastAPI()

    @app.post("/generate", response_class=Response)
    async def generate(body: GenerateBody) -> Response:  # noqa: ARG001 (validated, and no more)
        return Response(REPLY, media_type="application/json")

    @app.get("/health/ready", response_class=Response)
    async def ready() -> Response:
        return Response()

    return app


def main() -> None:
    """`python -m bench.bare_route 8001` serves until it is terminated."""
    uvicorn.run(
        make_app(),
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
    )


if __name__ == "__main__":
    main()
