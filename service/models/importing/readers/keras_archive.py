"""The `.keras` format: a zip archive of config.json, metadata.json and model.weights.h5.

Only these members are read, each up to a limit; nothing is extracted to a path of the archive.
"""

import lzma
import zipfile
import zlib
from typing import BinaryIO

from service.errors import BadCheckpoint, reason_of
from service.models.importing.checkpoint import Checkpoint
from service.models.importing.folder import ImportFolder
from service.models.importing.readers.json_text import MAX_BYTES, read_json_object
from service.models.importing.readers.keras_hdf5 import read_hdf5
from service.models.importing.unsupported import PYTORCH, TORCHSCRIPT

FORMAT = "keras-archive"
MAX_MEMBERS = 16
MAX_RATIO = 20
"""The largest ratio of a member to its compressed size, if it is over UNCHECKED_BYTES."""
UNCHECKED_BYTES = 1024 * 1024
MAX_ASSET_BYTES = 8 * 1024 * 1024

_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_ASSETS = "assets/"
_READ = (_CONFIG, _METADATA, _WEIGHTS)
_MODELS = ("saved_model.pb", ".keras", ".h5", ".hdf5", ".index", ".safetensors")
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,
    EOFError,
    ValueError,
    OSError,
)
_SYMLINK = 0o120000
_PIECE_BYTES = 1024 * 1024


def read_keras_archive(folder: ImportFolder, file: BinaryIO) -> Checkpoint:
    """Read the config and the shapes of a `.keras` archive. Raises BadCheckpoint."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = _members(archive)
            config = read_json_object(_read(archive, members[_CONFIG], MAX_BYTES), _CONFIG)
            metadata = read_json_object(_read(archive, members[_METADATA], MAX_BYTES), _METADATA)
            weights = folder.scratch()  # HDF5 needs to seek
            _unpack(archive, members[_WEIGHTS], weights, folder.max_file_bytes)
            assets = {
                name: _read(archive, info, MAX_ASSET_BYTES)
                for name, info in members.items()
                if name.startswith(_ASSETS) and not info.is_dir()
            }
    except _DAMAGE as error:
        raise BadCheckpoint(f"the archive is damaged: {reason_of(error)[:200]}") from error
    version = metadata.get("keras_version")
    if not isinstance(version, str):
        raise BadCheckpoint(f"{_METADATA} has no keras_version")
    checkpoint = read_hdf5(weights)
    return Checkpoint(FORMAT, checkpoint.layers, config, version, assets=assets)


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    names = [info.filename for info in infos]
    _check_is_keras(names)
    if len(infos) > MAX_MEMBERS:
        raise BadCheckpoint(f"the archive has {len(infos)} members; the limit is {MAX_MEMBERS}")
    for info in infos:
        _check_member(info)
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BadCheckpoint(f"the archive has two members named {twice[:200]!r}")
    if missing := [name for name in _READ if name not in names]:
        raise BadCheckpoint(f"the archive has no member {missing[0]}, so it is no .keras file")
    return {info.filename: info for info in infos}


def _check_is_keras(names: list[str]) -> None:
    """Refuse zip archives of other programs by what they are."""
    if any(name.endswith(("constants.pkl", "/code/__torch__.py")) for name in names):
        raise BadCheckpoint(f"the file cannot be imported: {TORCHSCRIPT}")
    if any(name.endswith("data.pkl") for name in names):
        raise BadCheckpoint(f"the file cannot be imported: {PYTORCH}")
    if not set(_READ) & set(names):
        for name in names:
            if name.endswith(_MODELS):
                raise BadCheckpoint(
                    f"the file is a zip archive with {name[:200]!r} in it: unpack it and give "
                    + ("the folder of that file" if name.endswith(".pb") else "that file")
                )
    if names and all(name.endswith(".npy") for name in names):
        raise BadCheckpoint(
            "the file is a NumPy .npz archive, which may contain pickles and names no layers; "
            "save the model with Keras"
        )
    if "model.weights.npz" in names:
        raise BadCheckpoint(
            "the archive has its weights as model.weights.npz; save it where h5py is installed, "
            f"so that they are {_WEIGHTS}"
        )


def _check_member(info: zipfile.ZipInfo) -> None:
    name = info.filename[:200]
    if info.filename.startswith(("/", "\\")) or ".." in info.filename.replace("\\", "/").split("/"):
        raise BadCheckpoint(f"the archive's member {name!r} has a path outside the archive")
    if (info.external_attr >> 16) & 0o170000 == _SYMLINK:
        raise BadCheckpoint(f"the archive's member {name!r} is a symbolic link")
    if info.flag_bits & 1:
        raise BadCheckpoint(f"the archive's member {name!r} is encrypted")
    if info.filename not in _READ and not info.filename.startswith(_ASSETS):
        raise BadCheckpoint(f"the archive's member {name!r} is not one that Keras writes")
    if info.file_size > max(UNCHECKED_BYTES, MAX_RATIO * info.compress_size):
        raise BadCheckpoint(
            f"the archive's member {name!r} would unpack from {info.compress_size} to "
            f"{info.file_size} bytes; the limit is {MAX_RATIO} times"
        )


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, max_bytes: int) -> bytes:
    with archive.open(info) as member:
        content = member.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise BadCheckpoint(f"the archive's member {info.filename} is over {max_bytes} bytes")
    return content


def _unpack(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, copy: BinaryIO, max_bytes: int
) -> None:
    """Copy a member. Raises BadCheckpoint if it is larger than declared."""
    written = 0
    with archive.open(info) as member:
        while piece := member.read(_PIECE_BYTES):
            written += len(piece)
            if written > min(max_bytes, info.file_size):
                raise BadCheckpoint(
                    f"the archive's member {info.filename} unpacks to more than it declares "
                    f"or than the limit of {max_bytes} bytes"
                )
            copy.write(piece)
    copy.seek(0)
