"""The states of a batch in the memory of a device, where they stay between steps and bursts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from service.models.graph import IR_VERSION, OPSET
from service.models.onnx_device import OnnxDevice
from service.models.step import StateArrays

Rows = npt.NDArray[np.int64]


class RowGraphs:
    """The compiled graphs that read and arrange rows of states. Any thread may use them."""

    def __init__(self, device: OnnxDevice, widths: Sequence[int]) -> None:
        self.device, self.widths = device, tuple(widths)
        self.reading = device.open_session(_reading(self.widths))
        self.arranging = device.open_session(_arranging(self.widths))


class DeviceStates:
    """The states of `rows` rows, and the changes of rows that the next step begins with.

    A change is noted here and made by one gather, when the step needs it. There are two buffers,
    so a graph never reads what it writes. Belongs to the owner of the batch.
    """

    def __init__(self, graphs: RowGraphs, rows: int) -> None:
        self._graphs, self._rows = graphs, rows
        device = graphs.device
        self._buffers = tuple(
            tuple(device.allocate((rows, width), np.float32) for width in graphs.widths)
            for _ in range(2)
        )
        self._current = 0
        self._unchanged = np.arange(rows)
        # Of each row: its row in the buffer or, from `rows` on, in what has come in.
        self._source = np.full(rows, rows)
        self._incoming: list[StateArrays] = [self._zeros]

    @property
    def _zeros(self) -> StateArrays:
        return tuple(np.zeros(width, np.float32) for width in self._graphs.widths)

    def swap(self, a: int, b: int) -> None:
        """Exchange two rows."""
        self._source[[a, b]] = self._source[[b, a]]

    def write(self, row: int, states: StateArrays | None) -> None:
        """Write the states of a row; None are zeros."""
        if states is None:
            self._source[row] = self._rows
            return
        if len(self._incoming) > self._rows:
            self.buffers()  # so that what has come in takes no more than the batch
        self._source[row] = self._rows + len(self._incoming)
        self._incoming.append(tuple(np.array(one, np.float32) for one in states))

    def read(self, rows: Rows) -> StateArrays:
        """Return a copy of the states of these rows."""
        sources = self._source[rows]
        is_here = sources < self._rows
        found = tuple(np.empty((len(rows), width), np.float32) for width in self._graphs.widths)
        if is_here.any():
            for array, states in zip(found, self._read_device(sources[is_here]), strict=True):
                array[is_here] = states
        for i in np.flatnonzero(~is_here).tolist():
            for array, state in zip(found, self._incoming[sources[i] - self._rows], strict=True):
                array[i] = state
        return found

    def take(self, first: int, rows: Rows) -> None:
        """Give the rows from `first` the states that `rows` have now."""
        self._source[first : first + len(rows)] = self._source[rows]

    def buffers(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Make the changes; return the buffers that the next step reads and that it writes."""
        if not np.array_equal(self._source, self._unchanged):
            self._arrange()
        return self._buffers[self._current], self._buffers[1 - self._current]

    def flip(self) -> None:
        """Have what was written read from now on."""
        self._current = 1 - self._current

    def _arrange(self) -> None:
        binding = self._graphs.arranging.io_binding()
        binding.bind_cpu_input("source", self._source)
        before, after = self._buffers[self._current], self._buffers[1 - self._current]
        for i, incoming in enumerate(zip(*self._incoming, strict=True)):
            binding.bind_ortvalue_input(f"state_{i}", before[i])
            binding.bind_cpu_input(f"incoming_{i}", np.stack(incoming))
            binding.bind_ortvalue_output(f"arranged_{i}", after[i])
        self._graphs.device.run(self._graphs.arranging, binding)
        self.flip()
        self._source[:] = self._unchanged
        del self._incoming[1:]

    def _read_device(self, rows: Rows) -> list[npt.NDArray[np.float32]]:
        binding = self._graphs.reading.io_binding()
        binding.bind_cpu_input("rows", rows)
        for i, buffer in enumerate(self._buffers[self._current]):
            binding.bind_ortvalue_input(f"state_{i}", buffer)
            binding.bind_output(f"read_{i}", "cpu")
        self._graphs.device.run(self._graphs.reading, binding)
        return list(binding.copy_outputs_to_cpu())


def _reading(widths: Sequence[int]) -> bytes:
    """Serialise a graph: `read_i` are the rows `rows` of `state_i`."""
    info, inputs, outputs, nodes = helper.make_tensor_value_info, [], [], []
    inputs.append(info("rows", TensorProto.INT64, ["n"]))
    for i, width in enumerate(widths):
        inputs.append(info(f"state_{i}", TensorProto.FLOAT, ["rows_held", width]))
        outputs.append(info(f"read_{i}", TensorProto.FLOAT, ["n", width]))
        nodes.append(helper.make_node("Gather", [f"state_{i}", "rows"], [f"read_{i}"]))
    return _model(nodes, inputs, outputs)


def _arranging(widths: Sequence[int]) -> bytes:
    """Serialise a graph: `arranged_i` are rows of `state_i` and, after them, of `incoming_i`."""
    info, inputs, outputs, nodes = helper.make_tensor_value_info, [], [], []
    inputs.append(info("source", TensorProto.INT64, ["rows_held"]))
    for i, width in enumerate(widths):
        inputs.append(info(f"state_{i}", TensorProto.FLOAT, ["rows_held", width]))
        inputs.append(info(f"incoming_{i}", TensorProto.FLOAT, ["n", width]))
        outputs.append(info(f"arranged_{i}", TensorProto.FLOAT, ["rows_held", width]))
        both = [f"state_{i}", f"incoming_{i}"]
        nodes.append(helper.make_node("Concat", both, [f"all_{i}"], axis=0))
        nodes.append(helper.make_node("Gather", [f"all_{i}", "source"], [f"arranged_{i}"]))
    return _model(nodes, inputs, outputs)


def _model(nodes: list[Any], inputs: list[Any], outputs: list[Any]) -> bytes:
    graph = helper.make_graph(nodes, "rows", inputs, outputs)
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
    return bytes(model.SerializeToString())
