"""Hypothesis strategies of constraints."""

from collections.abc import Sequence

from hypothesis import strategies as st

from service.constraints.compiler import compile_constraint
from service.constraints.constraint import Constraint
from service.constraints.spec import regex
from service.errors import Validation

VOCABULARY = ["a", "[UNK]", "b", "0", "1", " ", "-", "\n", "é", None, "B"]
"""A model's tokens; patterns also have characters that it lacks."""

_TERMS = [
    *("a", "b", "c", "0", "é", "ß", "-", " ", r"\n", r"\.", r"\x61", r"\u00e9", "{", "]"),
    *(".", r"\d", r"\w", r"\s", r"\D", r"\W", r"\S"),
    *("[ab]", "[^a]", "[a-z0]", r"[\d-]", "[]a]", "[^]]", r"[\wé]", "[^ab01 \\-\né]", "[c-e]"),
]
_QUANTIFIERS = ["", "?", "*", "+", "{2}", "{0,2}", "{1,3}", "{2,}", "{,2}", "*?", "+?", "{1,2}?"]


def regexes(leaves: int = 8) -> st.SearchStrategy[str]:
    """Return a strategy of regular expressions that Python's `re` reads, too."""
    term = st.sampled_from(_TERMS)

    def wider(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        some = st.lists(inner, min_size=1, max_size=4)
        group = st.sampled_from(["(", "(?:"])
        return st.one_of(
            st.builds(lambda parts: "".join(f"(?:{part})" for part in parts), some),
            st.builds(lambda parts: "(?:" + "|".join(parts) + ")", some),
            st.builds("{}{}){}".format, group, inner, st.sampled_from(_QUANTIFIERS)),
        )

    return st.recursive(term, wider, max_leaves=leaves)


def compiled(pattern: str, vocabulary: Sequence[str | None] = VOCABULARY) -> Constraint | None:
    """Compile a regex; return None if the vocabulary cannot spell any text of it."""
    try:
        return compile_constraint(regex(pattern), vocabulary)
    except Validation as refusal:
        if "no text matches" not in str(refusal):
            raise
        return None
