"""A guarded HDF5 file: every link and data set is checked before any number is read.

An HDF5 file can refer to other files (external links and storage, virtual data sets), declare more
data than it contains, and name plug-ins to load. Keras writes none of that, so it is refused.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import h5py  # type: ignore[import-untyped,unused-ignore]
import numpy as np

from service.errors import BadCheckpoint, reason_of
from service.models.importing.checkpoint import Array, StoredArray
from service.models.importing.readers.tensor_bundle import from_bytes

SIGNATURE = b"\x89HDF\r\n\x1a\n"
MAX_OBJECTS = 20_000
MAX_DEPTH = 32
MAX_RANK = 8
MAX_NAMES = 4096
MAX_COMPRESSION = 50
"""The largest ratio of a data set to its bytes in the file, if it is over UNCHECKED_BYTES."""
UNCHECKED_BYTES = 1024 * 1024

_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
_NUMBERS = ("bfloat16", "float16", "float32", "float64", "int8")


@contextmanager
def damage_is_refused() -> Iterator[None]:
    """Convert the errors of the HDF5 library into BadCheckpoint."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise BadCheckpoint(f"the HDF5 file is damaged: {reason_of(error)[:200]}") from error


def open_hdf5(file: BinaryIO) -> h5py.File:
    """Open a file and check every object in it. Raises BadCheckpoint if one is not allowed."""
    root = h5py.File(file, "r")
    for count, _ in enumerate(_walk(root, "", 0)):
        if count > MAX_OBJECTS:
            raise BadCheckpoint(f"the HDF5 file has more than {MAX_OBJECTS} objects")
    return root


def stored_array(dataset: h5py.Dataset) -> StoredArray:
    """Return a data set of numbers, not yet loaded. Raises BadCheckpoint."""
    name, shape = dataset.name, dataset.shape
    if shape is None or len(shape) > MAX_RANK:
        raise BadCheckpoint(
            f"data set {name} has shape {shape}; weights have at most {MAX_RANK} axes"
        )
    is_bfloat16 = text_of(dataset, "dtype") == "bfloat16" and dataset.dtype.itemsize == 2
    dtype = "bfloat16" if is_bfloat16 else str(dataset.dtype)
    if dtype not in _NUMBERS:
        raise BadCheckpoint(f"data set {name} has the type {dtype}; weights are floats")
    return StoredArray(shape, dtype, lambda: _read(dataset, dtype))


def dataset_at(group: h5py.Group, path: str) -> h5py.Dataset:
    """Return a data set by its path inside a group. Raises BadCheckpoint."""
    found = group.get(path) if path and not path.startswith("/") else None
    if not isinstance(found, h5py.Dataset):
        raise BadCheckpoint(
            f"the HDF5 file names {path[:200]!r} in {group.name}, but has no such data set"
        )
    return found


def group_at(group: h5py.Group, name: str) -> h5py.Group:
    """Return a group by its name inside another. Raises BadCheckpoint."""
    found = group.get(name) if name and not name.startswith("/") else None
    if not isinstance(found, h5py.Group):
        raise BadCheckpoint(f"the HDF5 file names the layer {name[:200]!r}, but has no such group")
    return found


def text_of(owner: h5py.HLObject, name: str) -> str | None:
    """Return an attribute that is one string. Raises BadCheckpoint if it is anything else."""
    if name not in owner.attrs:
        return None
    value = _attribute(owner, name)
    if not isinstance(value, str | bytes):
        raise BadCheckpoint(f"the attribute {name!r} of {owner.name} is not a string")
    return _as_text(value)


def texts_of(owner: h5py.HLObject, name: str) -> list[str]:
    """Return a list of strings in an attribute; Keras splits a long one into name0, name1, …."""
    names = [name] if name in owner.attrs else []
    while f"{name}{len(names)}" in owner.attrs and names[:1] != [name]:
        names.append(f"{name}{len(names)}")
    texts = []
    for part in names:
        for text in np.atleast_1d(np.asarray(_attribute(owner, part))).tolist():
            if not isinstance(text, str | bytes):
                raise BadCheckpoint(
                    f"the attribute {part!r} of {owner.name} is not a list of strings"
                )
            texts.append(_as_text(text))
    return texts


def _walk(group: h5py.Group, path: str, depth: int) -> Iterator[None]:
    if depth > MAX_DEPTH:
        raise BadCheckpoint(f"the HDF5 file is nested more than {MAX_DEPTH} deep, at {path[:40]}…")
    for name in group:
        yield
        here = f"{path}/{name}"
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise BadCheckpoint(f"{here} is an external link, which refers to another file")
        if not isinstance(link, h5py.HardLink):
            raise BadCheckpoint(f"{here} is a soft link; links are not followed")
        found = group.get(name)
        if isinstance(found, h5py.Group):
            yield from _walk(found, here, depth + 1)
        elif isinstance(found, h5py.Dataset):
            _check(found, here)
        else:
            raise BadCheckpoint(f"{here} is neither a group nor a data set")


def _check(dataset: h5py.Dataset, path: str) -> None:
    plist = dataset.id.get_create_plist()
    if plist.get_external_count():
        raise BadCheckpoint(f"data set {path} has its numbers in another file (external storage)")
    if dataset.is_virtual:
        raise BadCheckpoint(f"data set {path} is virtual: its numbers are in other files")
    filters = {plist.get_filter(i)[0] for i in range(plist.get_nfilters())}
    if unknown := filters - _FILTERS:
        raise BadCheckpoint(
            f"data set {path} is compressed by filter {min(unknown)}; only gzip is read"
        )
    declared = math.prod(dataset.shape or ()) * dataset.dtype.itemsize
    stored = dataset.id.get_storage_size()
    if declared > max(UNCHECKED_BYTES, MAX_COMPRESSION * stored):
        raise BadCheckpoint(
            f"data set {path} declares the shape {dataset.shape}, {declared} bytes, "
            f"but the file has {stored} bytes of it"
        )


def _attribute(owner: h5py.HLObject, name: str) -> Any:
    """Return an attribute's value. Raises BadCheckpoint if it is large or not text."""
    found = owner.attrs.get_id(name)
    if math.prod(found.shape) > MAX_NAMES:
        raise BadCheckpoint(f"the attribute {name!r} of {owner.name} has {found.shape} entries")
    if found.dtype.kind not in "SOf":  # an empty list of names is stored as no floats
        raise BadCheckpoint(
            f"the attribute {name!r} of {owner.name} has type {found.dtype}, not text"
        )
    return owner.attrs[name]


def _as_text(value: str | bytes) -> str:
    """Decode UTF-8; h5py returns other bytes as lone surrogates."""
    content = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
    return content.decode("utf-8", "replace")


@damage_is_refused()
def _read(dataset: h5py.Dataset, dtype: str) -> Array:
    array: Array = dataset[()]
    return from_bytes(array.tobytes(), dtype).reshape(array.shape) if dtype == "bfloat16" else array
