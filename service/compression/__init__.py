"""Compression of files by a model: arithmetic coding over its probabilities, exact to the bit."""
