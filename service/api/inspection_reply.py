"""The reply of an inspection: JSON with numbers or packed arrays, or a safetensors file."""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from service.errors import GenerationFailed, Validation
from service.inspection.inspector import Inspection
from service.inspection.selection import SelectedLayer
from service.inspection.signals import bounds
from service.models.cells import CELLS
from service.models.spec import FloatArray

SAFETENSORS = "application/octet-stream"
_FLOAT16_MAX = float(np.finfo(np.float16).max)


class Encoding(StrEnum):
    """How values are written: as JSON numbers, or as an array of this type."""

    NUMBERS = "numbers"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    UINT8 = "uint8"


class InspectionFormat(StrEnum):
    """What a reply is."""

    JSON = "json"
    SAFETENSORS = "safetensors"


@dataclass(frozen=True, slots=True)
class InspectedText:
    """What a reply says besides the trace."""

    model: str
    digest: str
    precision: str
    text: str
    offsets: Sequence[tuple[int, int]]  # of each token, in characters
    token_texts: Sequence[str]  # JSON, by token id
    steer: Mapping[str, Any]  # the member `steer` of the reply, if any


def check_encoding(layers: Sequence[SelectedLayer], encoding: Encoding) -> None:
    """Raise Validation for bytes of a signal that has no bounds."""
    if encoding is not Encoding.UINT8:
        return
    for layer in layers:
        for name in layer.signals:
            if bounds(layer.spec, name) is None:
                raise Validation(
                    f"`encoding` is uint8, and {name} of layer {layer.index} has no bounds: leave "
                    f"{name} out of `signals`, or use float16",
                    "encoding",
                )


def json_reply(found: Inspection, about: InspectedText, encoding: Encoding) -> bytes:
    """Encode the reply as JSON. Raises Validation, GenerationFailed."""
    piece = found.piece
    layers = zip(found.selection.layers, found.before, piece.layers, strict=True)
    members = [
        f'"model":{json.dumps(about.model)}',
        f'"digest":{json.dumps(about.digest)}',
        f'"precision":{json.dumps(about.precision)}',
        f'"characters":{len(about.text)}',
        f'"token_count":{len(piece.tokens)}',
        f'"tokens":[{",".join(_tokens(found, about))}]',
        f'"layers":[{",".join(_layer(*parts, encoding) for parts in layers)}]',
    ]
    members += [f'"{name}":{json.dumps(value)}' for name, value in about.steer.items()]
    return f"{{{','.join(members)}}}".encode("ascii")


def safetensors_reply(found: Inspection, about: InspectedText, encoding: Encoding) -> bytes:
    """Encode the reply as a safetensors file. Raises Validation."""
    piece = found.piece
    arrays: dict[str, npt.NDArray[Any]] = {
        "ids": np.array(piece.tokens, np.int64),
        "logprobs": piece.logprobs,
        "offsets": np.array(about.offsets, np.int64).reshape(-1, 2),
    }
    metadata = {
        "model": about.model,
        "digest": about.digest,
        "precision": about.precision,
        "text": about.text,
    } | {name: json.dumps(value) for name, value in about.steer.items()}
    for layer, before, signals in zip(
        found.selection.layers, found.before, piece.layers, strict=True
    ):
        prefix = f"layers.{layer.index}."
        metadata[f"{prefix}cell"] = layer.spec.cell
        arrays[f"{prefix}cells"] = layer.cells
        for name, state in before.items():
            arrays[f"{prefix}before.{name}"] = state
        for name, values in signals.items():
            content = packed(layer, name, values, encoding)
            arrays[prefix + name] = np.ascontiguousarray(content)
            if encoding is Encoding.UINT8:
                low, high = bounds(layer.spec, name) or (0.0, 1.0)
                metadata[f"{prefix}{name}.range"] = f"{low:g} {high:g}"
    return bytes(save(arrays, metadata))


def _tokens(found: Inspection, about: InspectedText) -> list[str]:
    texts, piece = about.token_texts, found.piece
    written = []
    for t, (token, (start, stop), logprob) in enumerate(
        zip(piece.tokens, about.offsets, piece.logprobs.tolist(), strict=True)
    ):
        top = ""
        if piece.top_tokens:
            tops = [_token(one, texts[one], value) for one, value in piece.top_tokens[t]]
            top = f',"top_tokens":[{",".join(f"{{{each}}}" for each in tops)}]'
        own = _token(token, texts[token], logprob)
        written.append(f'{{{own},"start":{start},"stop":{stop}{top}}}')
    return written


def _token(token: int, text: str, logprob: float) -> str:
    """Encode a token as /score does, without the braces."""
    number = f"{logprob:.7f}" if logprob <= 0.0 else "null"
    return f'"id":{token},"text":{text},"logprob":{number}'


def _layer(
    layer: SelectedLayer,
    before: Mapping[str, FloatArray],
    signals: Mapping[str, FloatArray],
    encoding: Encoding,
) -> str:
    states = ",".join(f'"{name}":{_numbers(state)}' for name, state in before.items())
    values = ",".join(
        f'"{name}":{_values(layer, name, array, encoding)}' for name, array in signals.items()
    )
    kind = f'"use_bias":{json.dumps(layer.spec.use_bias)}'
    if CELLS[layer.spec.cell].has_reset_after:
        kind += f',"reset_after":{json.dumps(layer.spec.reset_after)}'
    return (
        f'{{"layer":{layer.index},"cell":"{layer.spec.cell}","units":{layer.spec.units},'
        f'"activation":"{layer.spec.activation}",'
        f'"recurrent_activation":"{layer.spec.recurrent_activation}",{kind},'
        f'"cells":{json.dumps(layer.cells.tolist())},"before":{{{states}}},"signals":{{{values}}}}}'
    )


def _values(layer: SelectedLayer, name: str, values: FloatArray, encoding: Encoding) -> str:
    if encoding is Encoding.NUMBERS:
        return f"[{','.join(map(_numbers, values))}]"
    content = packed(layer, name, values, encoding)
    text = base64.b64encode(content.tobytes()).decode("ascii")
    limits = ""
    if encoding is Encoding.UINT8:
        limits = f',"range":{json.dumps(bounds(layer.spec, name))}'
    return (
        f'{{"encoding":"{encoding}","shape":{json.dumps(content.shape)}{limits},"base64":"{text}"}}'
    )


def _numbers(row: FloatArray) -> str:
    """Encode float32 as numbers that are read back as the same float32. Raises GenerationFailed."""
    values = row.tolist()
    if not all(map(math.isfinite, values)):
        raise GenerationFailed(
            "a signal has a value that is not a finite number, which JSON cannot have: set "
            '`encoding` to "float32"'
        )
    return f"[{','.join([f'{value:.9g}' for value in values])}]"


def packed(
    layer: SelectedLayer, name: str, values: FloatArray, encoding: Encoding
) -> npt.NDArray[Any]:
    """Return the values in the type of an encoding, little-endian. Raises Validation."""
    if encoding is Encoding.FLOAT16:
        largest = float(np.abs(values).max(initial=0.0))
        if largest > _FLOAT16_MAX:
            raise Validation(
                f"{name} of layer {layer.index} reaches {largest:.6g}; float16 holds at most "
                f"{_FLOAT16_MAX:.0f}: set `encoding` to float32",
                "encoding",
            )
        return values.astype("<f2")
    if encoding is Encoding.UINT8:
        low, high = bounds(layer.spec, name) or (0.0, 1.0)  # checked by `check_encoding`
        scaled = (values - np.float32(low)) * np.float32(255.0 / (high - low))
        found: npt.NDArray[np.uint8] = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
        return found
    return values.astype("<f4", copy=False)
