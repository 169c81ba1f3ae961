"""The losses of a training as a plot."""

from collections.abc import Sequence
from io import BytesIO

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from service.training.events import ValidationEvent


def loss_curve(history: Sequence[ValidationEvent]) -> bytes:
    """Plot training and validation loss over the epochs, with the best value, as PNG."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    epochs = [validation.epoch for validation in history]
    training = [validation.training_nats for validation in history]
    axes.plot(epochs, training, marker=".", label="training, with dropout")
    losses = [validation.validation_nats for validation in history]
    axes.plot(epochs, losses, marker=".", label="validation")
    if history:
        best = min(history, key=lambda validation: validation.validation_nats)
        axes.plot(best.epoch, best.validation_nats, "o", mfc="none", color="black", ms=9)
        axes.annotate(
            f"{best.validation_nats:.4f}",
            (best.epoch, best.validation_nats),
            textcoords="offset points",
            xytext=(0, -16),
            ha="center",
        )
    axes.set_xlabel("epoch")
    axes.set_ylabel("nats a character")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    png = BytesIO()
    # Without the software's version the same losses give the same bytes.
    figure.savefig(png, format="png", dpi=120, metadata={"Software": None})
    return png.getvalue()
