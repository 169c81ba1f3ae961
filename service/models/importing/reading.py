"""The author's loop, as far as a file tells it: the state carried from token to token, or a window.

A window is read from a zero state for each prediction. What the file does not tell is asked by
`assume`: `state`, `window`, `padding`, `pad`.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from service.errors import BadCheckpoint
from service.models.importing.assumptions import Assumptions
from service.models.importing.checkpoint import StoredArray, StoredLayer
from service.models.spec import ModelSpec
from service.models.tokenizers.tokenizer import Tokenizer
from service.models.window import Padding, Window


class InputKind(StrEnum):
    """What a model reads at each step."""

    IDS = "ids"
    ONE_HOT = "one-hot"
    SCALED = "scaled"  # id / V
    TEXT = "text"  # which a layer of the model pads on the right


_PADS = {  # the author's usual loop: padding, pad, is_sliding
    InputKind.IDS: (Padding.LEFT, 0, False),
    InputKind.ONE_HOT: (Padding.RIGHT, None, True),
    InputKind.SCALED: (Padding.NONE, None, False),
    InputKind.TEXT: (Padding.RIGHT, 0, False),
}


@dataclass(frozen=True, slots=True)
class Reading:
    """What a file tells about the way in which its author reads tokens.

    `length` is the number of steps of the input, `built_length` that of the first input that the
    model was called with. `not_carried` is the layer, if any, that only computes whole windows.
    """

    kind: InputKind
    vocabulary_size: int
    layer: str  # the last recurrent one
    length: int | None = None
    built_length: int | None = None
    is_stateful: bool = False
    is_sequence: bool = True  # whether there is a prediction after each step
    not_carried: str | None = None
    is_masked: bool = False


def window_of(reading: Reading, assumptions: Assumptions) -> Window | None:
    """Return the window that is read for each prediction; None if the state is carried.

    Raises BadCheckpoint if neither the file nor `assume` tells, or if they contradict each other.
    """
    state, length = assumptions.state, assumptions.window
    if state == "carried" and length is not None:
        raise BadCheckpoint("assume.state is carried, but assume.window is given; leave one out")
    is_windowed = not reading.is_sequence or reading.not_carried is not None
    by_file = is_windowed and (reading.not_carried is not None or not reading.is_stateful)
    if state == "carried" and by_file:
        _check_carried(reading, assumptions)
        return None
    is_fixed = reading.length is not None and reading.length > 1
    if is_fixed and not by_file and not reading.is_stateful and state is None:
        assumptions.note(
            f"the model predicts after each of its {reading.length} tokens, and takes no other "
            'number: it is read as a window; `assume` {"state": "carried"} carries its state'
        )
        by_file = True
    if not by_file and state != "window" and length is None:
        if is_fixed and reading.is_stateful:
            assumptions.note(
                f"the model is stateful: its state is carried from token to token, although it "
                f'takes {reading.length} at once; `assume` {{"state": "window"}} reads windows'
            )
        return None
    return _window(reading, _length(reading, length, assumptions), assumptions)


def check_state_is_known(spec: ModelSpec, tokenizer: Tokenizer, assumptions: Assumptions) -> None:
    """Ask for the loop of a file of weights alone, where authors of its kind use several.

    Raises BadCheckpoint for one-hot inputs and for words of a Keras Tokenizer.
    """
    if assumptions.state is not None or assumptions.window is not None:
        return
    if spec.embedding_dim is None or tokenizer.special.pad in tokenizer.end_ids:
        raise BadCheckpoint(
            "the file does not say how many tokens are read for each prediction: give "
            '`assume.window`, the length of the author\'s input, or `assume` {"state": "carried"}'
        )
    assumptions.note(
        "the state is taken to be carried from token to token: a file of weights alone does not "
        "say whether a window is read for each prediction; `assume.window` can change it"
    )


def _check_carried(reading: Reading, assumptions: Assumptions) -> None:
    if reading.not_carried is not None:
        raise BadCheckpoint(
            f"layer {reading.not_carried!r} reads a whole window at once: its state cannot be "
            "carried; leave assume.state out"
        )
    assumptions.note(
        f"layer {reading.layer!r} was trained to predict after a window; its state is carried "
        "from token to token, as `assume` has it, so the text can differ from the author's"
    )


def _length(reading: Reading, given: int | None, assumptions: Assumptions) -> int:
    if reading.length is not None:
        if given not in (None, reading.length):
            raise BadCheckpoint(
                f"the file states a window of {reading.length} tokens, but assume.window is "
                f"{given}; leave assume.window out"
            )
        return reading.length
    if given is not None:
        assumptions.note(f"the window is {given} tokens, as `assume` has it")
        return given
    if reading.built_length is not None:
        assumptions.note(
            f"the window is {reading.built_length} tokens, the length of the first input that the "
            "model was called with; assume.window can change it"
        )
        return reading.built_length
    raise BadCheckpoint(
        "the file does not say how many tokens are read for each prediction: give it as "
        "`assume.window`, the length of the author's input"
    )


def _window(reading: Reading, length: int, assumptions: Assumptions) -> Window:
    padding, pad, is_sliding = _PADS[reading.kind]
    keeps_first = _keeps_first(reading, assumptions)
    if assumptions.padding is not None:
        # Of a one-hot input the usual pads are zeros on the right, or token 0 on the left.
        if assumptions.padding is not padding:
            pad, is_sliding = 0, False
        padding = assumptions.padding
    elif reading.kind is InputKind.ONE_HOT and reading.is_sequence and reading.not_carried is None:
        padding = Padding.NONE  # the last of its predictions is read, so that no zeros may follow
    if padding is Padding.NONE:
        pad, is_sliding = None, False
    elif assumptions.pad is not None:
        pad, is_sliding = _pad(reading, assumptions.pad), False
    if length == 1:
        assumptions.note(
            "the model reads the last token alone, from a zero state, for each prediction"
        )
        return Window(1, padding, pad, is_sliding, keeps_first)
    shown = "zeros" if pad is None else f"token {pad}"
    how = (
        "a shorter text is refused"
        if padding is Padding.NONE
        else f"a shorter text is padded with {shown} on the {padding}"
    )
    if reading.is_masked and padding is not Padding.NONE:
        how += ", which are skipped"
    assumptions.note(
        f"the {'first' if keeps_first else 'latest'} {length} tokens are read from a zero state "
        f"for each prediction; {how} (assume.padding and assume.pad can change it)"
    )
    return Window(length, padding, pad, is_sliding, keeps_first)


def _keeps_first(reading: Reading, assumptions: Assumptions) -> bool:
    """Whether the author's loop reads the first tokens of a text that is longer than the window."""
    given = assumptions.given("truncation_side")
    cuts = reading.kind is InputKind.TEXT and reading.length is not None
    if not cuts:
        if given == "right":
            raise BadCheckpoint(
                "assume.truncation_side is right, but no layer of the model cuts a text; leave it "
                "out"
            )
        return False
    if given == "left":
        assumptions.note(
            f"the latest {reading.length} tokens of a longer text are read, as "
            "assume.truncation_side has it: the model's own text layer reads the first ones"
        )
        return False
    assumptions.note(
        f"the model's text layer reads the first {reading.length} tokens of a text: after them "
        "the prediction does not change any more, as in a loop that gives the model its whole "
        'text; `assume` {"truncation_side": "left"} reads the latest ones, as a loop that gives '
        "the model only the end of its text"
    )
    return True


def _pad(reading: Reading, given: int | str) -> int | None:
    if isinstance(given, str):
        if reading.kind is not InputKind.ONE_HOT:
            raise BadCheckpoint("assume.pad is 'zero', but the model reads ids: give a token's id")
        return None
    if given >= reading.vocabulary_size:
        raise BadCheckpoint(
            f"assume.pad is {given}, but the model has tokens 0 to {reading.vocabulary_size - 1}"
        )
    return given


def scaled_input(size: int, assumptions: Assumptions, *, is_rescaled: bool = False) -> StoredLayer:
    """Return the embedding of width 1 that a scaled input is: row i is float32(i / divisor).

    The divisor is 1 if a layer of the model rescales the ids.
    """
    divisor = assumptions.scale or (1 if is_rescaled else size)
    if assumptions.scale is None and is_rescaled:
        assumptions.note(
            "the model reads each token's id, which its first layer rescales; assume.scale can "
            "divide it first"
        )
    elif assumptions.scale is None:
        assumptions.note(
            f"the model reads each token's id divided by {size}, the number of its tokens; "
            "assume.scale can change it"
        )
    rows = (np.arange(size, dtype=np.float64) / divisor).astype(np.float32)[:, None]
    return StoredLayer("the input", (StoredArray((size, 1), "float32", lambda: rows),))
