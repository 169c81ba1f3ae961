"""Which tokens are masked: a step with one keeps every state of the model."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from service.models.spec import ModelSpec
from service.models.window import Padding


def masked_tokens(
    spec: ModelSpec, weights: Mapping[str, npt.NDArray[np.floating]]
) -> npt.NDArray[np.bool_]:
    """Return for each token whether it is masked: (vocabulary + 1,); the last is the input 0.

    With Keras's Masking every token is masked whose embedding is 0. A window that its author never
    pads may be fed less than full while a text is scored: its pads are masked.
    """
    masked = np.zeros(spec.vocabulary_size + 1, bool)
    if spec.mask_token is not None:
        masked[spec.mask_token] = True
    if spec.mask_zero_input:
        masked[-1] = True
        if "embedding" in weights:
            masked[:-1] |= ~np.asarray(weights["embedding"]).any(axis=1)
    masked[-1] |= spec.window is not None and spec.window.padding is Padding.NONE
    return masked
