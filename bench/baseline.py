"""The article's loop: eager Keras 2, one character at a time. A contender."""

import os
import time
from collections.abc import Sequence

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_USE_LEGACY_KERAS"] = "1"

import tensorflow as tf
import tf_keras

from bench.contender import compete
from bench.seed_model import EMBEDDING_DIM, UNITS, VOCABULARY

CHARACTERS = 100


def build_model() -> tf_keras.Model:
    """The article's model restored for generation: batch 1, stateful."""
    model = tf_keras.Sequential(
        [
            tf_keras.layers.Embedding(len(VOCABULARY), EMBEDDING_DIM, batch_input_shape=[1, None]),
            tf_keras.layers.LSTM(
                UNITS,
                return_sequences=True,
                stateful=True,
                recurrent_initializer="glorot_uniform",
            ),
            tf_keras.layers.Dense(len(VOCABULARY)),
        ]
    )
    model.build(tf.TensorShape([1, None]))
    return model


def generate_text(model: tf_keras.Model, characters: int) -> list[int]:
    """The article's generation loop."""
    text = []
    input_eval = tf.expand_dims([1], 0)
    model.reset_states()
    for _ in range(characters):
        predictions = tf.squeeze(model(input_eval), 0) / 1.0
        predicted_id = tf.random.categorical(predictions, num_samples=1)[-1, 0].numpy()
        input_eval = tf.expand_dims([predicted_id], 0)
        text.append(predicted_id)
    return text


def main() -> None:
    """Measure for each line of standard input."""
    model = build_model()
    generate_text(model, 20)

    def measure(_: Sequence[str]) -> dict[str, float]:
        began_s, used_s = time.perf_counter(), time.process_time()
        generate_text(model, CHARACTERS)
        elapsed_s, used_s = time.perf_counter() - began_s, time.process_time() - used_s
        return {"characters_per_s": CHARACTERS / elapsed_s, "cpu_us": 1e6 * used_s / CHARACTERS}

    compete(measure)


if __name__ == "__main__":
    main()
