"""Generate the blocking side of the client, `_sync`, from the `async` one, `_async`.

unasync converts each file token by token, and ruff formats it. Usage: generate_sync.py [TARGET]
"""

import subprocess
import sys
from pathlib import Path

import unasync

PACKAGE = Path(__file__).parent / "src" / "carousel_client"
SOURCE, TARGET = PACKAGE / "_async", PACKAGE / "_sync"
NOTICE = "# Generated from ../_async: change that, and run `make client-sync`.\n"
NAMES = {
    "AsyncBatchesAPI": "BatchesAPI",
    "AsyncClient": "Client",  # ours and httpx2's
    "AsyncCorporaAPI": "CorporaAPI",
    "AsyncFilesAPI": "FilesAPI",
    "AsyncInspectionAPI": "InspectionAPI",
    "AsyncModelsAPI": "ModelsAPI",
    "AsyncSessionsAPI": "SessionsAPI",
    "AsyncStream": "Stream",
    "AsyncTokenStream": "TokenStream",
    "AsyncTraceStream": "TraceStream",
    "AsyncTrainJobsAPI": "TrainJobsAPI",
    "AsyncTransport": "Transport",
    "_async": "_sync",
    "aclose": "close",
    "aiter_bytes": "iter_bytes",
    "anext": "next",
    "aread": "read",
    "asyncio": "time",  # sleep
}


def generate(target: Path) -> None:
    """Write the blocking side into `target`."""
    rule = unasync.Rule(f"{SOURCE}/", f"{target}/", NAMES)
    unasync.unasync_files([str(path) for path in sorted(SOURCE.glob("*.py"))], [rule])
    for path in target.glob("*.py"):
        path.write_text(NOTICE + path.read_text())
    command = [sys.executable, "-m", "ruff", "format", "--quiet", "--config"]
    subprocess.run([*command, "pyproject.toml", target], cwd=PACKAGE.parents[3], check=True)


if __name__ == "__main__":
    generate(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else TARGET)
