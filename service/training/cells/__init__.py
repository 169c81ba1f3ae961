"""The gradients of the recurrent cells: a `RECURRENCE` for each file of `service.models.cells`."""

from importlib import import_module
from pkgutil import iter_modules
from types import MappingProxyType
from typing import TYPE_CHECKING

from service.models.cells import CELLS

if TYPE_CHECKING:  # TensorFlow is loaded after the check
    from collections.abc import Mapping

    from service.training.recurrence import Recurrence


if different := {module.name for module in iter_modules(__path__)} ^ CELLS.keys():
    raise ImportError(
        f"service.models.cells and {__name__} must have the same files; only one has "
        f"{', '.join(sorted(different))}"
    )

RECURRENCES: "Mapping[str, Recurrence]" = MappingProxyType(
    {name: import_module(f"{__name__}.{name}").RECURRENCE for name in CELLS}
)
"""The recurrence of every cell of CELLS, by its name."""
