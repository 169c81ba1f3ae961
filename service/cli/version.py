"""The subcommand `version`: Carousel, its commit, Python, the processor and its code path."""

import platform
import subprocess
from pathlib import Path

from service import __version__
from service.cli.options import AsJson


def version(*, is_json: AsJson = False) -> None:
    """Print the versions, the processor, and which int8 program this processor runs."""
    import json

    found = facts()
    if is_json:
        print(json.dumps(found, indent=2))
    else:
        width = max(map(len, found))
        print("\n".join(f"{name.ljust(width)}  {value}" for name, value in found.items()))


def facts() -> dict[str, str]:
    """Return what identifies this installation and the machine's code path, by name."""
    found = {"carousel": __version__, "commit": commit() or "not known"}
    return found | {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "processor": processor(),
        "int8": code_path(),
    }


def code_path() -> str:
    """Return in words which kernels can compute int8 models on this processor."""
    from service.models.compile import has_vnni, own_instructions

    instructions = own_instructions()
    if not instructions:
        return "ONNX Runtime"
    own = f"Carousel's own kernel, with {instructions}"
    return f"{own}, or ONNX Runtime, as `carousel doctor` shows" if has_vnni() else own


def processor() -> str:
    """Return the name of the processor, as far as the system says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def commit(folder: Path = Path(__file__).parents[2]) -> str | None:
    """Return the commit of a checkout that this runs from, or was built from; None if unknown."""
    if not (folder / ".git").exists():
        built = folder / "service" / "commit.txt"
        return built.read_text().strip() if built.exists() else None
    command = ["git", "rev-parse", "--short=12", "HEAD"]
    try:
        done = subprocess.run(  # noqa: S603 (fixed words)
            command, cwd=folder, capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
