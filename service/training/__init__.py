"""Where models come from: texts, and the loops that learn them with TensorFlow."""
