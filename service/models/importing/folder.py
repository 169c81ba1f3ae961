"""The import folder: the only way from a client's path to an open file."""

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal, Self

from service.errors import TooLarge, Validation

MAX_NAMES = 10_000
Kind = Literal["file", "folder", "absent"]


class ImportFolder:
    """Files under `root`, opened component by component without `..` and symbolic links.

    A context manager: on exit it closes all files. `digests` maps the name of each file that was
    opened to its sha256.
    """

    def __init__(self, root: Path, max_file_bytes: int) -> None:
        self.root = root
        self.max_file_bytes = max_file_bytes
        self.digests: dict[str, str] = {}
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def kind(self, relative: PurePosixPath) -> Kind:
        """Return what is at a path. Raises Validation if it is neither a file nor a folder."""
        parts = _parts(relative)
        try:
            with self._folder(parts[:-1], relative) as parent:
                return _kind(parts[-1], parent, relative) if parts else "folder"
        except FileNotFoundError:
            return "absent"

    def check(self, relative: PurePosixPath, field: str, *, is_source: bool = False) -> None:
        """Raise Validation with the request's field if no file is at a path.

        A source may be a folder, or the prefix of a TensorFlow checkpoint.
        """
        if not self.root.is_dir():
            raise Validation(f"{field}: the import folder is not there", field)
        try:
            kind = self.kind(relative)
            if is_source and kind == "absent" and relative.name:
                kind = self.kind(relative.with_name(f"{relative.name}.index"))
        except Validation as error:
            raise Validation(f"{field}: {error}", field) from error
        except (OSError, UnicodeEncodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            shown = str(relative)[:200]
            raise Validation(f"{field}: {shown!r} cannot be read: {reason}", field) from error
        if kind == "absent":
            raise Validation(f"{field}: {relative} is not in the import folder", field)
        if kind == "folder" and not is_source:
            raise Validation(f"{field}: {relative} is a folder; name a file", field)

    def names(self, relative: PurePosixPath) -> list[str]:
        """Return the sorted names in a folder. Raises Validation if there are too many."""
        with self._folder(_parts(relative), relative) as descriptor:
            names = sorted(os.listdir(descriptor))  # noqa: PTH208 - a Path has no descriptor
        if len(names) > MAX_NAMES:
            raise Validation(f"{relative} holds {len(names)} files; the limit is {MAX_NAMES}")
        return names

    def open(self, relative: PurePosixPath) -> BinaryIO:
        """Open a regular file for reading and record its sha256.

        Raises Validation if the path leaves the folder, has a link in it, or is no regular file;
        TooLarge if the file is larger than the limit.
        """
        parts = _parts(relative)
        try:
            with self._folder(parts[:-1], relative) as parent:
                if not parts or _kind(parts[-1], parent, relative) != "file":
                    raise Validation(f"{relative} is a folder; name a file")
                descriptor = os.open(
                    parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent
                )
        except FileNotFoundError as error:
            raise Validation(f"{relative} is not in the import folder") from error
        file = self._opened.enter_context(os.fdopen(descriptor, "rb"))
        size = os.fstat(descriptor).st_size
        if size > self.max_file_bytes:
            raise TooLarge(
                f"{relative} has {size} bytes; the limit for one file is {self.max_file_bytes}"
            )
        name = str(relative) if relative.name in self.digests else relative.name
        name = name.encode("utf-8", "backslashreplace").decode()
        self.digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        return file

    def scratch(self) -> BinaryIO:
        """Return a new temporary file, which is deleted on exit."""
        return self._opened.enter_context(tempfile.TemporaryFile())

    def read(self, relative: PurePosixPath, max_bytes: int) -> bytes:
        """Return the content of a file of at most `max_bytes`. Raises as `open`."""
        file = self.open(relative)
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise TooLarge(f"{relative} has {size} bytes; the limit is {max_bytes}")
        return file.read(size)

    @contextmanager
    def _folder(self, parts: tuple[str, ...], relative: PurePosixPath) -> Iterator[int]:
        descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for part in parts:
                if _kind(part, descriptor, relative) != "folder":
                    raise Validation(f"{part!r} in {relative} is not a folder")
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
                inner = os.open(part, flags, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = inner
            yield descriptor
        finally:
            os.close(descriptor)


def confined(text: str, field: str) -> PurePosixPath:
    """Return a client's path if it stays under the import folder. Raises Validation."""
    path = PurePosixPath(text)
    if not text or "\0" in text or path.is_absolute() or ".." in path.parts:
        raise Validation(
            f"{field} is {text[:200]!r}; it must be a path under the import folder, without '..'",
            field,
        )
    if len(text.encode("utf-8", "replace")) > os.pathconf("/", "PC_PATH_MAX") // 2:
        raise Validation(f"{field} is a path of {len(text)} characters, which is too long", field)
    return path


def _parts(relative: PurePosixPath) -> tuple[str, ...]:
    return confined(str(relative), "the path").parts


def _kind(name: str, parent: int, relative: PurePosixPath) -> Literal["file", "folder"]:
    mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
    if stat.S_ISLNK(mode):
        raise Validation(f"{name!r} in {relative} is a symbolic link; links are not followed")
    if stat.S_ISDIR(mode):
        return "folder"
    if stat.S_ISREG(mode):
        return "file"
    raise Validation(f"{relative} is not a regular file")
