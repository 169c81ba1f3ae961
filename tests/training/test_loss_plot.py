import pytest

from service.training.events import ValidationEvent
from service.training.loss_plot import loss_curve


def validation(step, nats):
    return ValidationEvent(
        step=step,
        n_steps=10,
        epoch=step / 5,
        training_nats=nats - 0.1,
        validation_nats=nats,
        bits_per_character=1.0,
        bits_per_byte=1.0,
        perplexity=2.0,
        elapsed_s=1.0,
        is_best=True,
    )


@pytest.mark.parametrize("losses", [[], [2.0], [2.0, 1.5, 1.6]])
def test_a_curve_is_a_png_and_the_same_losses_are_the_same_bytes(losses):
    history = [validation(5 * i, nats) for i, nats in enumerate(losses)]
    png = loss_curve(history)
    assert png.startswith(b"\x89PNG")
    assert png == loss_curve(history)


def test_another_loss_is_another_picture():
    assert loss_curve([validation(5, 2.0)]) != loss_curve([validation(5, 2.1)])
