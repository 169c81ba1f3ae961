"""Foreign checkpoints → bundles, in a limited child process; nothing in a file is executed.

importer.py (the caller's side) starts child.py, which recognises the format (recognise.py), reads
it (readers/), finds the architecture (architecture.py from a config, inference.py from the
shapes), converts the arrays (convert.py) and measures them (../parity.py).
"""
