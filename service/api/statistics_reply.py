"""The reply of a text's statistics: JSON, a cell at a time, with a sentence of its facts."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from service.inspection.selection import SelectedLayer
from service.inspection.statistics import LayerStatistics, TokenFact, keeping_gate

_DIGITS = 7


def layer_reply(layer: SelectedLayer, found: LayerStatistics, texts: Sequence[str]) -> str:
    """Encode the statistics of one layer. `texts` are JSON, by token id."""
    cells = [
        json.dumps(_cell(layer, found, k, texts), separators=(",", ":"))
        for k in range(len(layer.cells))
    ]
    head = f'"layer":{layer.index},"cell":"{layer.spec.cell}","units":{layer.spec.units}'
    keeps = json.dumps(keeping_gate(layer))
    return f'{{{head},"keeping_gate":{keeps},"cells":[{",".join(cells)}]}}'


def _cell(
    layer: SelectedLayer, found: LayerStatistics, k: int, texts: Sequence[str]
) -> Mapping[str, Any]:
    half_life = float(found.half_life[k])
    gates = {
        name: {
            "mean": _rounded(gate.mean[k]),
            "below": _rounded(gate.below[k]),
            "above": _rounded(gate.above[k]),
        }
        for name, gate in found.gates.items()
    }
    return {
        "cell": int(layer.cells[k]),
        "mean": _rounded(found.mean[k]),
        "deviation": _rounded(found.deviation[k]),
        "skewness": _rounded(found.skewness[k]),
        "kurtosis": _rounded(found.kurtosis[k]),
        "least": _rounded(found.least[k]),
        "greatest": _rounded(found.greatest[k]),
        "histogram": found.histogram[k].tolist(),
        "gates": gates,
        "mean_log": None if found.mean_log is None else _rounded(found.mean_log[k]),
        "retention": {str(lag): _rounded(left[k]) for lag, left in found.retention.items()},
        "half_life": None if math.isinf(half_life) else _rounded(half_life),
        "cleared_by": [_fact(fact, texts) for fact in found.cleared_by[k]],
        "written_by": [_fact(fact, texts) for fact in found.written_by[k]],
        "raised_by": [_fact(fact, texts) for fact in found.raised_by[k]],
        "lowered_by": [_fact(fact, texts) for fact in found.lowered_by[k]],
        "sentence": sentence(layer, found, k, texts),
    }


def sentence(layer: SelectedLayer, found: LayerStatistics, k: int, texts: Sequence[str]) -> str:
    """Say what was measured of a cell."""
    gate = keeping_gate(layer)
    if gate is None:
        return "The cell has no gates: each token replaces what it held."
    lag, left = max(found.retention.items(), default=(0, None))
    if left is None:
        parts = ["The text is too short to say how long the cell holds a value"]
    elif math.isinf(found.half_life[k]):
        parts = [f"After {lag} tokens {left[k]:.0%} is left of what the cell held"]
    else:
        parts = [f"Half of what the cell held is gone after {found.half_life[k]:.1f} tokens"]
    if found.cleared_by[k]:
        said = [f"{texts[fact.token]} ({fact.value:.3f})" for fact in found.cleared_by[k]]
        parts.append(f"it is cleared by {', '.join(said)}: the mean of {gate} there")
    if found.written_by[k]:
        said = [f"{texts[fact.token]} ({fact.value:+.2f})" for fact in found.written_by[k][:3]]
        parts.append(f"most is written by {', '.join(said)}")
    return "; ".join(parts) + "."


def _fact(fact: TokenFact, texts: Sequence[str]) -> Mapping[str, Any]:
    return {
        "id": fact.token,
        "text": json.loads(texts[fact.token]),
        "value": _rounded(fact.value),
        "count": fact.count,
    }


def _rounded(value: float) -> float | None:
    """Return seven significant digits; None for what is not a finite number."""
    number = float(value)
    return float(f"{number:.{_DIGITS}g}") if math.isfinite(number) else None
