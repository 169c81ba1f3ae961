"""A build hook of hatchling: the wheel has the commit of the checkout that it is built from."""

import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CommitHook(BuildHookInterface):  # type: ignore[type-arg]
    """Puts `service/commit.txt` into a wheel; not into one of an sdist, which has no commit."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Ask git, and include its answer."""
        root = Path(self.root)
        if version == "editable" or not (root / ".git").exists():
            return
        command = ["git", "rev-parse", "--short=12", "HEAD"]
        try:
            done = subprocess.run(
                command, cwd=root, capture_output=True, text=True, timeout=5, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return
        self._folder = tempfile.TemporaryDirectory()
        (path := Path(self._folder.name) / "commit.txt").write_text(done.stdout)
        build_data["force_include"][str(path)] = "service/commit.txt"
