"""A child that writes down its environment and dies."""

import json
import os
import signal
from pathlib import Path

(Path.cwd().parent / "environment").write_text(json.dumps(dict(os.environ)))
os.kill(os.getpid(), signal.SIGSEGV)
