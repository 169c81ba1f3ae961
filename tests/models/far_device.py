"""A device of the processor whose memory is as far from the host's as a GPU's."""

from typing import Any

import numpy as np

from service.models.device import Device
from service.models.onnx_device import OnnxDevice


class FarBinding:
    """Copies what the host binds when it is bound, as ONNX Runtime does for a GPU."""

    def __init__(self, binding: Any) -> None:
        self._binding = binding

    def __getattr__(self, name: str) -> Any:
        return getattr(self._binding, name)

    def bind_cpu_input(self, name: str, array: np.ndarray) -> None:
        self._binding.bind_cpu_input(name, array.copy())


class FarSession:
    def __init__(self, session: Any) -> None:
        self.session = session
        self.runs = 0

    def io_binding(self) -> FarBinding:
        return FarBinding(self.session.io_binding())


class FarDevice(OnnxDevice):
    """Counts the runs of each session, in the order in which they were opened."""

    def __init__(self) -> None:
        super().__init__(Device.CPU)
        self.sessions: list[FarSession] = []

    def open_session(self, graph: bytes, limit_bytes: int | None = None) -> FarSession:
        self.sessions.append(FarSession(super().open_session(graph, limit_bytes)))
        return self.sessions[-1]

    def run(self, session: FarSession, binding: FarBinding) -> None:
        session.runs += 1
        super().run(session.session, binding._binding)
