"""A child that writes its environment into a file and crashes."""

import json
import os
import signal
from pathlib import Path


def run(_argument):
    (Path.cwd().parent / "environment").write_text(json.dumps(dict(os.environ)))
    os.kill(os.getpid(), signal.SIGSEGV)
