import keras
import numpy as np
import pytest
from safetensors.numpy import load

from service.errors import Validation
from service.models.cell import Activation, LayerSpec
from service.models.reference import ReferenceModel
from service.models.spec import ModelSpec, Weights
from service.training.export import KERAS_FILE, exported

pytestmark = [
    pytest.mark.tf,
    # Keras 3.15 reads variables of TensorFlow in a way that NumPy 2.4 deprecates.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def random_weights(spec):
    rng = np.random.default_rng(2)
    return Weights(spec, {k: rng.normal(size=s, scale=0.5) for k, s in spec.weight_shapes.items()})


@pytest.mark.parametrize(
    "layer",
    [
        LayerSpec("lstm", 6),
        LayerSpec("lstm", 6, Activation.RELU, Activation.HARD_SIGMOID_6, use_bias=False),
        LayerSpec("gru", 6),
        LayerSpec("gru", 6, reset_after=False),
    ],
)
@pytest.mark.parametrize("embedding_dim", [None, 5])
def test_keras_loads_the_file_and_computes_the_reference_logits(tmp_path, layer, embedding_dim):
    spec = ModelSpec(9, embedding_dim, (layer, LayerSpec(layer.cell, 4)))
    weights = random_weights(spec)
    path = tmp_path / KERAS_FILE
    path.write_bytes(exported(spec, weights)[KERAS_FILE])
    model = keras.models.load_model(path)
    tokens = np.random.default_rng(0).integers(9, size=20)
    logits = model.predict(tokens[None], verbose=0)[0]
    expected = ReferenceModel(spec, weights).run(tokens.tolist())
    assert np.abs(logits - expected).max() < 1e-5


def test_a_peephole_lstm_is_exported_as_weights_and_a_note():
    spec = ModelSpec(9, 5, (LayerSpec("peephole_lstm", 6),))
    weights = random_weights(spec)
    files = exported(spec, weights)
    assert sorted(files) == ["README.txt", "weights.safetensors"]
    arrays = load(files["weights.safetensors"])
    assert all((arrays[name] == weight).all() for name, weight in weights.items())
    assert b"PeepholeLSTM(6)" in files["README.txt"]


def test_an_activation_that_keras_3_does_not_have_is_refused():
    layer = LayerSpec("lstm", 6, recurrent_activation=Activation.HARD_SIGMOID_02)
    spec = ModelSpec(9, 5, (layer,))
    with pytest.raises(Validation, match="hard sigmoid of Keras 2"):
        exported(spec, random_weights(spec))
