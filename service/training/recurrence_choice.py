"""Which implementation computes a training's recurrent layers: the own one, or cuDNN's.

On a processor it is the own one. On a GPU both take some steps by turns, and cuDNN's is taken
where it has 1.1 times the speed; the checkpoints and the model's record have what was found.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from service.errors import Validation
from service.models.spec import ModelSpec
from service.training.recipe import WantedRecurrence

MIN_GAIN = 1.1
_TURNS, _STEPS = 3, 4

_log = logging.getLogger(__name__)

Step = Callable[[], object]


@dataclass(frozen=True, slots=True)
class RecurrenceChoice:
    """The implementation of a training, `own` or `cudnn`, and how it was chosen."""

    name: str = "own"
    device: str = ""  # the GPU's name; "" without one
    gain: float | None = None  # times the own speed; None: it was not measured

    def to_json(self) -> dict[str, Any]:
        """The choice as plain JSON values."""
        return {"name": self.name, "device": self.device, "gain": self.gain}


def gpu_name() -> str:
    """Return the kind of the GPU that TensorFlow has here; "" if there is none."""
    found = tf.config.list_physical_devices("GPU")
    if not found:
        return ""
    details = tf.config.experimental.get_device_details(found[0])
    return str(details.get("device_name", "GPU"))


def cudnn_fault(spec: ModelSpec) -> str | None:
    """Return why cuDNN cannot train a model, or None."""
    cells = {layer.cell for layer in spec.recurrent_layers}
    if other := sorted(cells - {"lstm", "gru"}):
        return f"cuDNN has no {other[0]}"
    if spec.embedding_dim is None or not spec.is_stack:
        return "cuDNN's network here is an embedding, recurrent layers and a dense layer"
    has_bias = all(layer.use_bias and layer.reset_after for layer in spec.recurrent_layers)
    return None if has_bias else "cuDNN's layers have a bias, and a GRU resets after the product"


def choose_recurrence(
    wanted: WantedRecurrence, spec: ModelSpec, device: str, steps: Callable[[], Mapping[str, Step]]
) -> RecurrenceChoice:
    """Choose an implementation. `steps` makes a function for each that takes one training step.

    Raises Validation where cuDNN is wanted and cannot be had.
    """
    fault = cudnn_fault(spec)
    if wanted == "cudnn":
        fault = fault or ("" if device else "TensorFlow finds no GPU here")
        if fault:
            raise Validation(f"`recurrence` is cudnn, but {fault}; leave it out, or set it to own")
        return RecurrenceChoice("cudnn", device)
    if wanted == "own" or not device or fault is not None:
        return RecurrenceChoice("own", device)
    try:
        gain = _gain(steps())
    except (tf.errors.OpError, NotImplementedError, ValueError) as error:
        _log.warning("cuDNN cannot train this model here: %s", error)
        return RecurrenceChoice("own", device)
    name = "cudnn" if gain >= MIN_GAIN else "own"
    _log.info("cuDNN has %.2f times the own speed on %s: %s is used", gain, device, name)
    return RecurrenceChoice(name, device, round(gain, 2))


def _gain(steps: Mapping[str, Step]) -> float:
    own, other = steps["own"], steps["cudnn"]
    _time_s(own)  # compiled here
    _time_s(other)
    turns = [(_time_s(own), _time_s(other)) for _ in range(_TURNS)]
    of_own, of_other = zip(*turns, strict=True)
    return float(min(of_own) / min(of_other))


def _time_s(step: Step) -> float:
    start_s = time.perf_counter()
    for _ in range(_STEPS):
        step()  # it returns the loss, so it has ended
    return time.perf_counter() - start_s
