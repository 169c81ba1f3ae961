"""The functions of an attempt that load TensorFlow, each when it is called.

An attempt claims its job and starts its heartbeat before the seconds that the import takes.
"""

from typing import Any

from service.training.attempt import BundleFiles, TrainBackend
from service.training.result import Trained


def tensorflow_backend() -> TrainBackend:
    """The backend of every worker."""
    return TrainBackend(_train, _package)


def _train(*arguments: Any, **options: Any) -> Trained:
    from service.training.trainer import train  # noqa: PLC0415 (TensorFlow)

    return train(*arguments, **options)


def _package(*arguments: Any) -> BundleFiles:
    from service.training.publication import package  # noqa: PLC0415 (matplotlib, TensorFlow)

    return package(*arguments)
