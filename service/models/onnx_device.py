"""A device of ONNX Runtime: the processor or a CUDA GPU, its memory, and sessions on it."""

import contextlib
import io
import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from service.errors import Validation
from service.models.device import Device
from service.models.program import drop_graph

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # a server reports nothing to third parties
import onnxruntime as ort

_WARNING, _FATAL = 2, 4
CUDA = "CUDAExecutionProvider"
INSTALL = (
    "install ONNX Runtime for CUDA as docs/how-to/gpu.md says, or set CAROUSEL_DEVICE=cpu and load "
    "the model in int8 or float32"
)


class OnnxDevice:
    """A device on which sessions run, one run at a time, so that its memory has a bound.

    Any thread may use it.
    """

    def __init__(self, device: Device, threads: int = 1) -> None:
        """Raise Validation for a GPU that is not there. `threads` compute on the processor."""
        self.device, self._threads = device, threads
        self._name = "cuda" if device is Device.GPU else "cpu"
        self._running = threading.Lock()
        if device is Device.GPU:
            check_gpu()

    def allocate(self, shape: Sequence[int], dtype: type[np.generic]) -> Any:
        """Return memory of the device, its content undefined. Raises RuntimeError if it is full."""
        return ort.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype, self._name, 0)

    def copy_of(self, array: npt.NDArray[Any]) -> Any:
        """Return memory of the device with the content of an array."""
        # On the processor ONNX Runtime would keep the array itself.
        return ort.OrtValue.ortvalue_from_numpy(array.copy(), self._name, 0)

    def open_session(self, graph: bytes, limit_bytes: int | None = None) -> Any:
        """Open a session, whose arena takes `limit_bytes` at most. Raises Validation.

        ONNX Runtime runs a graph on the processor where it cannot use the GPU, and only logs it:
        here that is refused.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if self.device is Device.CPU:
            options.enable_cpu_mem_arena = False
            session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
            drop_graph(session)
            return session
        # TensorFloat-32 would round float32 to ten bits without a word.
        chosen = {"device_id": "0", "use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}
        if limit_bytes is not None:
            chosen["gpu_mem_limit"] = str(limit_bytes)
        session = ort.InferenceSession(graph, options, providers=[(CUDA, chosen)])
        drop_graph(session)
        if session.get_providers()[0] != CUDA:
            raise Validation(f"ONNX Runtime cannot use the GPU of this machine: {INSTALL}")
        return session

    def run(self, session: Any, binding: Any) -> None:
        """Run a session and wait for its results."""
        with self._running:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()


def check_gpu() -> None:
    """Raise Validation if this process cannot use a GPU."""
    if CUDA not in ort.get_available_providers():
        raise Validation(f"this installation's ONNX Runtime is built for the processor: {INSTALL}")
    ort.set_default_logger_severity(_FATAL)  # the sentence below says it
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls(directory="")  # CUDA's libraries, from their packages of PyPI
        ort.OrtValue.ortvalue_from_shape_and_type([1], np.float32, "cuda", 0)
    except (RuntimeError, OSError) as error:
        raise Validation(
            f"ONNX Runtime finds no GPU of CUDA, or not CUDA's libraries: {INSTALL}"
        ) from error
    finally:
        ort.set_default_logger_severity(_WARNING)
