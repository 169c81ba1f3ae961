"""AdamW, its learning rate over time, and the decay of the weights' moving average."""

import math
from typing import Any

import tensorflow as tf

from service.training.recipe import Hyperparameters

BETA_1, BETA_2, EPSILON = 0.9, 0.99, 1e-8


def learning_rate(schedule: Hyperparameters, step: int, n_steps: int) -> float:
    """Return the learning rate of a step, from 0: a linear warm-up, then half a cosine down."""
    warm_up = max(1, round(schedule.warm_up_share * n_steps))
    if step < warm_up:
        return schedule.learning_rate * (step + 1) / (warm_up + 1)
    done = (step - warm_up) / max(1, n_steps - 1 - warm_up)
    lowest = schedule.final_rate_share
    return schedule.learning_rate * (
        lowest + (1.0 - lowest) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
    )


def ema_decay(schedule: Hyperparameters, step: int) -> float:
    """Return the decay of the weights' moving average at a step: small at first."""
    return min(schedule.weight_ema, (1.0 + step) / (10.0 + step))


class AdamW:
    """Adam with decoupled weight decay, for kernels only, and a clipped global gradient norm.

    Source: Kingma & Ba 2015; Loshchilov & Hutter 2019, "Decoupled weight decay regularization".
    """

    def __init__(self, schedule: Hyperparameters, weights: dict[str, Any]) -> None:
        self._schedule, self._weights = schedule, weights
        self.slots = {
            f"{slot}/{name}": tf.Variable(tf.zeros_like(weight))
            for slot in ("mean", "square")
            for name, weight in weights.items()
        }

    def apply(self, gradients: dict[str, Any], step: Any, rate: Any) -> None:
        """Update every weight by its gradient. `step` counts from 0, float32."""
        norm = tf.sqrt(tf.add_n([tf.reduce_sum(g * g) for g in gradients.values()]))
        scale = self._schedule.gradient_norm / tf.maximum(norm, self._schedule.gradient_norm)
        unbias_1 = 1.0 / (1.0 - tf.pow(BETA_1, step + 1.0))
        unbias_2 = 1.0 / (1.0 - tf.pow(BETA_2, step + 1.0))
        for name, weight in self._weights.items():
            gradient = gradients[name] * scale
            mean, square = self.slots[f"mean/{name}"], self.slots[f"square/{name}"]
            m = BETA_1 * mean + (1.0 - BETA_1) * gradient
            v = BETA_2 * square + (1.0 - BETA_2) * gradient * gradient
            update = m * unbias_1 / (tf.sqrt(v * unbias_2) + EPSILON)
            if name.endswith("kernel"):
                update += self._schedule.weight_decay * weight
            mean.assign(m)
            square.assign(v)
            weight.assign(weight - rate * update)
