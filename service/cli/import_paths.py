"""The request for an import from paths of the terminal, each checked before it is read."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from service.errors import Validation
from service.models.bundle import WantedPrecision
from service.models.importing.request import ImportRequest

_MODEL_FILES = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file, as models are saved in",
    b"PK\x03\x04": "an archive, as .keras files are",
}


def import_request(
    source: Path,
    name: str,
    *,
    vocabulary: Path | None = None,
    vocabulary_text: Path | None = None,
    config: Path | None = None,
    precision: WantedPrecision = "auto",
    assume: Sequence[str] = (),
) -> tuple[Path, ImportRequest]:
    """Return the folder to import from and the request. Raises Validation on a bad path."""
    _check_source(source)
    files = {"vocabulary": vocabulary, "vocabulary-text": vocabulary_text, "config": config}
    given = {option: path for option, path in files.items() if path is not None}
    for option, path in given.items():
        _check_file(path, f"--{option}")
        with path.open("rb") as file:
            head = file.read(8)
        for signature, what in _MODEL_FILES.items():
            if head.startswith(signature):
                raise Validation(
                    f"--{option} {path} is {what}: the model is the first argument, "
                    f"and --{option} is a text or JSON file"
                )
    options = _assumptions(assume)
    paths = [source.resolve(), *(path.resolve() for path in given.values())]
    root = Path(os.path.commonpath([path.parent for path in paths]))

    def below_root(path: Path | None) -> Path | None:
        return None if path is None else path.resolve().relative_to(root)

    return root, ImportRequest(
        source=source.resolve().relative_to(root),
        name=name,
        vocabulary=below_root(vocabulary),
        vocabulary_text=below_root(vocabulary_text),
        config=below_root(config),
        precision=precision,
        assume=options,
    )


def _check_source(path: Path) -> None:
    index = path.with_name(f"{path.name}.index") if path.name else path
    if not os.path.lexists(path) and os.path.lexists(index):
        return  # the prefix of a TensorFlow checkpoint
    if os.path.isdir(path):  # noqa: PTH112 (Path.is_dir raises PermissionError)
        _check_readable(path, "the model")
        if not any(path.iterdir()):
            raise Validation(f"the model {path} is an empty folder")
    else:
        _check_file(path, "the model")


def _check_file(path: Path, what: str) -> None:
    try:
        path.stat()
    except OSError as error:
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise Validation(f"{what} {path} is not there") from error
        raise Validation(f"{what} {path} cannot be read: {error.strerror}") from error
    if path.is_dir():
        raise Validation(f"{what} {path} is a folder; name a file")
    if not path.is_file():
        raise Validation(f"{what} {path} is not a regular file")
    _check_readable(path, what)
    if path.stat().st_size == 0:
        raise Validation(f"{what} {path} is empty")


def _check_readable(path: Path, what: str) -> None:
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        raise Validation(f"{what} {path} may not be read: its permissions forbid it")


def _assumptions(items: Sequence[str]) -> Mapping[str, str]:
    options: dict[str, str] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise Validation(
                f"--assume {item[:80]!r} is not key=value; write for example --assume state=carried"
            )
        if options.setdefault(key, value) != value:
            raise Validation(f"--assume {key} is given twice, with different values")
    return options
