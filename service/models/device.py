"""The devices that compute models, and which one a load gets."""

from enum import StrEnum
from typing import Literal

from service.models.bundle import Precision

WantedDevice = Literal["auto", "cpu", "gpu"]


class Device(StrEnum):
    """What computes the steps of a model."""

    CPU = "cpu"
    GPU = "gpu"


def device_of(wanted: WantedDevice, precision: Precision) -> Device:
    """Return the device of a load. `auto` is the processor, but for float16.

    So a GPU never changes the numbers of a model that was not asked to run on it.
    """
    is_on_gpu = wanted == "gpu" or (wanted == "auto" and precision is Precision.FLOAT16)
    return Device.GPU if is_on_gpu else Device.CPU


def served_precision(wanted: WantedDevice, recorded: Precision) -> Precision:
    """Return the precision of a load that names none, from the one that its bundle records.

    On a GPU a model is served in float16 where int8 is good enough for it, else as recorded.
    """
    if wanted == "gpu" and recorded is Precision.INT8:
        return Precision.FLOAT16
    return recorded
