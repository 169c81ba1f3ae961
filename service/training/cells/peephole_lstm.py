"""The gradient of the LSTM with peepholes."""

from service.training.cells.lstm import make
from service.training.recurrence import Recurrence

RECURRENCE = Recurrence(make, ("peephole",))
