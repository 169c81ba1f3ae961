"""The page /docs: Swagger UI from files of this package, so that it needs no other server."""

from pathlib import Path
from typing import Literal

from fastapi import APIRouter
from fastapi.responses import FileResponse, HTMLResponse

STATIC = Path(__file__).parent / "static"

# Of swagger-ui-dist 5.35.0, as its package has them: base64 of the SHA-256. The browser checks it.
DIGESTS = {
    "swagger-ui-bundle.js": "5qiYaS8tdo6AfDukYmBopposXdlg3Wx28+TTo94YCvI=",
    "swagger-ui.css": "XtCHV+U9o+Am1svsxh/l1DWFyVYLMC1TStVmklGaJz0=",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""What the page may load: its own server's files. Swagger UI sets styles inline."""

_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}

_PAGE = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Carousel</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css"
 integrity="sha256-{DIGESTS["swagger-ui.css"]}">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"
 integrity="sha256-{DIGESTS["swagger-ui-bundle.js"]}"></script>
<script src="docs/docs.js"></script>
</body>
</html>
"""

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def docs() -> HTMLResponse:
    """Return the page."""
    return HTMLResponse(_PAGE, headers={"Content-Security-Policy": POLICY})


@router.get("/docs/{name}")
async def docs_file(
    name: Literal["swagger-ui-bundle.js", "swagger-ui.css", "docs.js"],
) -> FileResponse:
    """Return a file of the page."""
    path = STATIC / name
    return FileResponse(path, headers={"Cache-Control": "no-cache"}, media_type=_TYPES[path.suffix])
