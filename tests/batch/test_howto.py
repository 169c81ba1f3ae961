"""The class that the how-to gives to Ray Data, called as Ray calls it."""

import re

import numpy as np
import pytest

from tests.process import ROOT

PAGE = ROOT / "docs" / "how-to" / "batch.md"


def test_the_class_for_ray_data_adds_texts():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (source,) = (block for block in blocks if "class Completions" in block)
    names: dict[str, type] = {}
    exec(source, names)
    actor = names["Completions"](str(ROOT / "model_store"), "demo@1")
    seeds = np.arange(4, dtype=np.int64)
    given = {"prompt": np.array(["The ", "The ", "A", "The "]), "seed": seeds // 2}
    texts = actor(dict(given))["text"]
    assert [len(text) for text in texts] == [256] * 4
    assert texts[0] == texts[1] != texts[3]
    assert actor(dict(given))["text"] == texts
    with pytest.raises(ValueError, match=r"`prompt`"):
        actor({"prompt": np.array([""]), "seed": seeds[:1]})
