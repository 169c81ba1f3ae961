"""The recurrent cells, one per file. A cell's name is the name of its file.

A new cell is one file here, which assigns an instance of `service.models.cell.Cell` to `CELL`, and
one of the same name in `service.training.cells` with the gradient. Only the readers of checkpoints
know weights of certain cells, those of Keras.
"""

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from service.models.cell import Cell


def _load_cells() -> dict[str, Cell]:
    names = [module.name for module in iter_modules(__path__)]
    cells: dict[str, Cell] = {name: import_module(f"{__name__}.{name}").CELL for name in names}
    return dict(sorted(cells.items(), key=lambda item: (item[1].year, item[0])))


CELLS: Mapping[str, Cell] = MappingProxyType(_load_cells())
"""Every cell by name, oldest first."""

if TYPE_CHECKING:
    CellName = str
else:
    CellName = Literal[tuple(CELLS)]  # the schema of the HTTP API shows the names
