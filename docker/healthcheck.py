"""Exit with 0 where the server in this container is ready for requests, else with 1."""  # noqa: INP001 (a program, not a module)

import os
import sys
from urllib.request import urlopen

TIMEOUT_S = 2.0


def main() -> None:
    """Ask `/health/ready` of the server beside us."""
    port = int(os.environ.get("CAROUSEL_PORT", "8000"))
    try:
        # A status from 400 up is raised as an error; urllib's errors are all of OSError.
        with urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=TIMEOUT_S):
            return
    except OSError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
