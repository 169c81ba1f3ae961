"""The layers of an exported model, which lists its variables in the order of `model.variables`.

A variable's name has its layer's in most files: `sequential/lstm/lstm_cell/kernel`. Where the names
do not tell, the layers are those that the shapes determine, if there is exactly one way.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

from service.errors import BadCheckpoint
from service.models.importing.checkpoint import StoredArray, StoredLayer

MAX_VARIABLES = 256

_GATES = (1, 3, 4)  # SimpleRNN, GRU, LSTM
_CELL = re.compile(r"/[^/]*cell(?:_\d+)?$")
_DIRECTION = re.compile(r"/(forward|backward)_[^/]*$")
_STATE = re.compile(r"state(?:_\d+)?$")

Variable = tuple[str, StoredArray]
Grouping = tuple[int, ...]  # the number of arrays of each layer


def layers_of_list(
    variables: Sequence[Variable], roles: Sequence[str]
) -> tuple[tuple[StoredLayer, ...], tuple[str, ...]]:
    """Return the layers of named variables, and notes. Raises BadCheckpoint."""
    if len(variables) > MAX_VARIABLES:
        raise BadCheckpoint(f"the model has {len(variables)} variables, over {MAX_VARIABLES}")
    variables = [(name, array) for name, array in variables if not _STATE.search(name)]
    layers: dict[str, dict[str, StoredArray]] = {}
    for name, array in variables:
        owner, _, role = name.rpartition("/")
        path = _DIRECTION.sub(r"/\1_layer", _CELL.sub("", owner))
        layers.setdefault(path, {})[role] = array
    found = [role for arrays in layers.values() for role in arrays]
    if "" in layers or len(found) != len(variables) or not set(found) <= set(roles):
        return _by_shapes([array for _, array in variables])
    return tuple(_named(path, arrays, roles) for path, arrays in layers.items()), ()


def _named(path: str, arrays: Mapping[str, StoredArray], roles: Sequence[str]) -> StoredLayer:
    ordered = tuple(arrays[role] for role in roles if role in arrays)
    return StoredLayer(path, ordered, is_embedding="embeddings" in arrays)


def _by_shapes(
    arrays: Sequence[StoredArray],
) -> tuple[tuple[StoredLayer, ...], tuple[str, ...]]:
    found = _groupings([array.shape for array in arrays])
    if len(found) != 1:
        raise BadCheckpoint(
            f"the model's {len(arrays)} variables are numbered only, and their shapes fit "
            f"{'no chain of layers' if not found else 'several chains of layers'}: name its "
            "variables and say the architecture, by loading it in your own TensorFlow and calling "
            "model.save('model.keras')"
        )
    layers, start = [], 0
    for i, count in enumerate(found[0]):
        group = tuple(arrays[start : start + count])
        is_embedding = count == 1 and i == 0 and len(found[0]) > 1
        layers.append(StoredLayer(f"variables/{start}", group, is_embedding=is_embedding))
        start += count
    note = "the file numbers its variables only; the layers are inferred from their shapes"
    return tuple(layers), (note,)


def _groupings(shapes: Sequence[tuple[int, ...]]) -> list[Grouping]:
    """Return the ways in which arrays are a chain of layers, or two if there are more.

    Only the first layer may be an embedding, of one array; the last is a Dense.
    """

    @cache
    def ways(start: int, width: int | None) -> tuple[Grouping, ...]:
        left = shapes[start:]
        if not left or len(left[0]) != 2:
            return ()
        rows, columns = left[0]
        found: list[Grouping] = []
        if width is None:
            found += [(1, *rest) for rest in ways(start + 1, columns)]
        if width in (None, rows):
            if width is not None and left[1:] in ([], [(columns,)]):
                found.append((len(left),))
            for count in _recurrent(left):
                found += [(count, *rest) for rest in ways(start + count, left[1][0])]
        return tuple(found[:2])

    return list(ways(0, None))


def _recurrent(shapes: Sequence[tuple[int, ...]]) -> Iterator[int]:
    """Yield the possible numbers of arrays of a recurrent layer at the beginning of `shapes`."""
    if len(shapes) < 2 or len(shapes[1]) != 2:
        return
    units, columns = shapes[1]
    if columns != shapes[0][1] or columns not in {gates * units for gates in _GATES}:
        return
    yield 2
    if shapes[2:3] in ([(columns,)], [(2, columns)]):
        yield 3
