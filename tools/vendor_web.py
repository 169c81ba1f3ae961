"""The modules of others that the page uses: taken from their npm packages, and written down.

`python -m tools.vendor_web` is for who changes a version; what it writes is committed, and a test
compares it without a network. Nothing else needs npm.
"""

import base64
import hashlib
import io
import json
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
VENDOR = ROOT / "service" / "ui" / "vendor"
MANIFEST = VENDOR / "MANIFEST.json"

_BARE = re.compile(r"""(\b(?:from|import)\s*)(["'])([^."'/][^"']*)\2""")
_SOURCE_MAP = re.compile(r"\n?//# sourceMappingURL=\S+\s*$")


@dataclass(frozen=True, slots=True)
class Package:
    """A package of npm, and the modules that are taken of it: their paths by what imports say."""

    name: str
    version: str
    integrity: str
    license: str
    modules: Mapping[str, str]

    @property
    def ref(self) -> str:
        """The package as npm's commands name it."""
        return f"{self.name}@{self.version}"

    @property
    def file_stem(self) -> str:
        """The package's name as that of a file."""
        return self.name.removeprefix("@").replace("/", "-")

    def file_name(self, imported: str) -> str:
        """Return the name of a module's file: it has the version, so that it may be kept."""
        part = imported.removeprefix(self.name).replace("/", "-")
        return f"{self.file_stem}{part}-{self.version}.js"


PACKAGES = (
    Package(
        "preact",
        "11.2.0",
        "sha512-/HfHI/7N84e6GrWBJ3J280z3mLaRJiDcSvj/A+y/4AbLnND/1UlGHe1sR6oYuTGwId0nP7dqDU9OnLxMPZ7xBg==",
        "MIT",
        {"preact": "dist/preact.mjs", "preact/hooks": "hooks/dist/hooks.mjs"},
    ),
    Package(
        "@preact/signals-core",
        "1.14.5",
        "sha512-vcRv7Ityz5JVmeiVqIluLFzT/PDS/AlhHUpw3/aUWqcVUs6bDGIPXE/6RSC4evBNWYvnniozg5Syfj33al3gkg==",
        "MIT",
        {"@preact/signals-core": "dist/signals-core.mjs"},
    ),
    Package(
        "@preact/signals",
        "2.11.4",
        "sha512-Rb+5RPo9gWSaHtzJeauhHxiC8KP/IF2DEPkHPEOGOnuy2wnJzRqyeLRankUCYd6ADqtxS6GnWGv6Ie343d8aYw==",
        "MIT",
        {"@preact/signals": "dist/signals.mjs"},
    ),
    Package(
        "htm",
        "3.1.1",
        "sha512-983Vyg8NwUE7JkZ6NmOqpCZ+sh1bKv2iYTlUkzlWmA5JD2acKoxd4KVxbMmxX/85mtfdnDmTFoNKcg5DGAvxNQ==",
        "Apache-2.0",
        {"htm": "dist/htm.mjs"},
    ),
)


def integrity_of(content: bytes) -> str:
    """Return what npm calls the integrity of a file."""
    return "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()


def rewritten(text: str, files: Mapping[str, str]) -> str:
    """Return a module that imports files of its own folder. Raises KeyError for another import.

    The name of a package alone is nothing that a browser can find.
    """

    def path_of(found: re.Match[str]) -> str:
        return f'{found[1]}"./{files[found[3]]}"'

    return _SOURCE_MAP.sub("\n", _BARE.sub(path_of, text))


def _tarball(package: Package) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            ["npm", "pack", "--silent", package.ref, "--pack-destination", folder],
            check=True,
            capture_output=True,
        )
        (path,) = Path(folder).iterdir()
        content = path.read_bytes()
    found = integrity_of(content)
    if found != package.integrity:
        raise SystemExit(f"{package.ref} is not what was reviewed: its integrity is {found}")
    return content


def main() -> None:
    """Write the modules, their licences and the manifest."""
    files = {one: package.file_name(one) for package in PACKAGES for one in package.modules}
    VENDOR.mkdir(parents=True, exist_ok=True)
    for old in VENDOR.iterdir():
        old.unlink()
    entries = []
    for package in PACKAGES:
        with tarfile.open(fileobj=io.BytesIO(_tarball(package))) as archive:
            read = {one.name: archive.extractfile(one) for one in archive if one.isfile()}
            contents = {name: file.read() for name, file in read.items() if file is not None}
        written = {
            files[imported]: rewritten(contents[f"package/{path}"].decode(), files).encode()
            for imported, path in package.modules.items()
        }
        license_name = f"{package.file_stem}.LICENSE.txt"
        written[license_name] = contents["package/LICENSE"]
        for name, content in written.items():
            (VENDOR / name).write_bytes(content)
        entries.append(
            {
                "name": package.name,
                "version": package.version,
                "license": package.license,
                "license_file": license_name,
                "integrity": package.integrity,
                "files": {
                    name: hashlib.sha256(content).hexdigest()
                    for name, content in sorted(written.items())
                },
            }
        )
    MANIFEST.write_text(json.dumps(entries, indent=1) + "\n")


if __name__ == "__main__":
    main()
