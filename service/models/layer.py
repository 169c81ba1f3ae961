"""The specification of one recurrent layer."""

from dataclasses import dataclass

from service.models.activation import Activation


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One recurrent layer. `cell` is a key of `service.models.cells.CELLS`.

    `reset_after` applies to cells with `has_reset_after` only.
    """

    cell: str
    units: int
    activation: Activation = Activation.TANH
    recurrent_activation: Activation = Activation.SIGMOID
    use_bias: bool = True
    reset_after: bool = True
