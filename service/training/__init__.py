"""Training: texts, train jobs, and the loop that trains models with TensorFlow."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # fewer log lines at import
