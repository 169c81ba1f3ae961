"""Import of Keras checkpoints as bundles: nothing in a file is executed.

The order to read it in: request.py and importer.py, which calls run_import.py in a child process
with limits; there pipeline.py detects the format (detect_format.py), reads it
(readers/), finds the architecture (keras_config.py from a config, infer_spec.py from shapes) and
converts the arrays (canonical_weights.py).

    ImportRequest → Checkpoint → ImportedModel → ImportReport → Bundle
"""
