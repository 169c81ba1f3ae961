"""What an author has: a model that Keras made, files of it, and a loop that writes text with it.

`python author.py <tf_keras|keras> <folder> [kind …]` writes each kind's files, and in `cases.json`
how each is imported and what the author's loop wrote. Nothing of Carousel is imported here.
"""

import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
HERE = Path(__file__).parent
STEPS = 200
WORDS = """the old king of a small green hill told his horse that every river runs to sea and no
lamb was ever lost where little dogs laugh at moon or spoon while men fetch water in pails from
wells by mill doors under stars"""


class Author:
    """Collects the cases of one kind with one framework."""

    def __init__(self, framework: str, folder: Path) -> None:
        self.k = importlib.import_module(framework)
        self.framework, self.folder = framework, folder
        self.is_keras_3 = framework == "keras"
        self.cases: list[dict] = []
        self._probabilities: list[np.ndarray] = []
        self._ids: list[int] = []
        self._written = 0
        folder.mkdir(parents=True, exist_ok=True)

    # -- the author's loop

    def chose(self, probabilities: np.ndarray, token: int) -> None:
        """Record one step of the loop: what it saw and what it took."""
        self._probabilities.append(np.asarray(probabilities, np.float32).ravel())
        self._ids.append(int(token))

    def wrote(self, prompt: str, text: str) -> None:
        """Record the text that the loop has added to a prompt; the cases that follow share it."""
        self._written += 1
        np.savez(
            self.folder / f"author-{self._written}.npz",
            probabilities=np.stack(self._probabilities),
            ids=np.asarray(self._ids),
        )
        written = {"prompt": prompt, "text": text}
        (self.folder / f"author-{self._written}.json").write_text(json.dumps(written))
        self._probabilities, self._ids = [], []

    # -- the author's files

    def case(self, how: str, path: Path, **options: object) -> None:
        """Record a file and the options of its import: vocabulary, text, config, assume."""
        for key in ("vocabulary", "text", "config"):
            value = options.pop(key, None)
            if value is None:
                continue
            if not isinstance(value, Path):
                content = value if isinstance(value, bytes) else str(value).encode()
                value = self.folder / f"{len(self.cases)}.{key}"
                value.write_bytes(content)
            options[key] = str(value.relative_to(self.folder))
        relative = str(path.relative_to(self.folder))
        self.cases.append(
            {"how": how, "source": relative, "author": self._written, "options": options}
        )

    def whole(self, model, **options: object) -> None:
        """Save the whole model in every way that the framework has."""
        for suffix in (".keras", ".h5"):
            path = self.folder / f"model{suffix}"
            model.save(str(path))
            self.case(suffix, path, **options)

    def weights(self, model, **options: object) -> None:
        """Save the weights alone."""
        path = self.folder / "model.weights.h5"
        model.save_weights(str(path))
        self.case(".weights.h5", path, **options)

    def end(self) -> None:
        """Write what was collected."""
        (self.folder / "cases.json").write_text(json.dumps(self.cases))


def shake(model, seed: int = 1, quiet: tuple[int, ...] = (), recurrent: float = 1.6):
    """Give a model weights whose greedy text wanders. `quiet` ids are never its choice."""
    random, arrays = np.random.default_rng(seed), []
    for w in model.weights:
        name = getattr(w, "path", w.name)
        shape = tuple(w.shape)
        if "variance" in name:
            arrays.append(random.uniform(0.5, 2.0, shape))
            continue
        gain = 1.5 if "embeddings" in name else 0.3 if len(shape) < 2 else 2.5 / shape[0] ** 0.5
        arrays.append(random.normal(0, gain * (recurrent if "recurrent" in name else 1.0), shape))
    for token in quiet:
        arrays[-1][token] = -30.0
    model.set_weights(arrays)
    return model


def texts() -> tuple[str, list[str]]:
    """Return a text and its lines, without a corpus: two hundred lines of a small vocabulary."""
    random = np.random.default_rng(11)
    words = WORDS.split()
    lines = [
        " ".join(random.choice(words, random.integers(5, 9))).capitalize()
        + str(random.choice([".", ",", "!", " - what?"]))
        for _ in range(200)
    ]
    return "\n".join(lines) + "\n", lines


KINDS: dict[str, tuple[str, tuple[str, ...], Callable[[Author], None]]] = {}


def kind(name: str, loop: str, *frameworks: str):
    """Register a kind: its row in the page, its loop in words, the frameworks that it exists in."""

    def register(make: Callable[[Author], None]) -> Callable[[Author], None]:
        KINDS[make.__name__] = (f"{name}|{loop}", frameworks or ("tf_keras", "keras"), make)
        return make

    return register


def main(framework: str, folder: str, *chosen: str) -> None:
    """Write the files of the chosen kinds, or of all."""
    sys.path.insert(0, str(HERE))
    sys.modules.setdefault("author", sys.modules["__main__"])
    for module in ("carried_kinds", "window_kinds", "word_kinds", "other_kinds"):
        importlib.import_module(module)
    for name, (row, frameworks, make) in KINDS.items():
        if framework in frameworks and (not chosen or name in chosen):
            author = Author(framework, Path(folder) / name)
            make(author)
            author.end()
            (author.folder / "row.txt").write_text(row)


if __name__ == "__main__":
    main(*sys.argv[1:])
