"""Import of Keras checkpoints as bundles: nothing in a file is executed.

The order to read it in: request.py and importer.py, which calls run_import.py in a child process
with limits. That detects the format (detect_format.py), reads it (readers/), finds the architecture
(keras_config.py from a config, infer_spec.py from shapes), converts the arrays
(canonical_weights.py) and measures the model.

    ImportRequest → Checkpoint → ImportReport → Bundle
"""
