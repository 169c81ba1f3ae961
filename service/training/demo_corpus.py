"""The text of the demo model: the language reference that CPython has for `help()`."""

import random
from collections.abc import Mapping
from pydoc_data.topics import topics as cpython_topics

# A line break and printable ASCII, whether or not the text has all of it: a prompt from any
# keyboard is then known, and the vocabulary does not depend on the patch version.
ALPHABET = ("\n", *map(chr, range(0x20, 0x7F)))

_IN_ASCII = str.maketrans(
    {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "--", "…": "..."}  # noqa: RUF001
)


def topics_text(seed: int, topics: Mapping[str, str] = cpython_topics) -> str:
    """Join the topics, in an order shuffled by `seed`.

    In alphabetical order the validation part would be all `types…`. Typographic quotes, dashes and
    dots become ASCII; the two or three other characters outside the alphabet are left out.
    """
    names = _distinct(topics)
    random.Random(seed).shuffle(names)  # noqa: S311 - an order, not a secret
    text = "\n\n".join(topics[name].strip("\n") for name in names) + "\n"
    known = set(ALPHABET)
    return "".join(c for c in text.translate(_IN_ASCII) if c in known)


def _distinct(topics: Mapping[str, str]) -> list[str]:
    """Names, sorted, of the topics that are not mostly a copy of part of longer ones.

    A model would be evaluated on sentences that it was trained on: `if` is a section of `compound`.
    """
    seen: set[str] = set()
    names = []
    for name in sorted(topics, key=lambda name: (-len(topics[name]), name)):
        paragraphs = {" ".join(part.split()) for part in topics[name].split("\n\n")}
        if 2 * len(paragraphs & seen) < len(paragraphs):
            names.append(name)
        seen |= paragraphs
    return sorted(names)
