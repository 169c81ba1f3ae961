import itertools
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.constraints.compiler import compile_constraint
from service.constraints.constraint import DEAD
from service.constraints.spec import regex
from service.errors import Validation
from tests.constraints.strategies import VOCABULARY, compiled, regexes

SPELLED = "ab0-é\n"
TEXTS = ["".join(t) for n in range(4) for t in itertools.product(SPELLED, repeat=n)]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pattern=regexes(5))
def test_the_automaton_has_the_texts_that_fullmatch_finds_to_match(pattern):
    wanted = {text for text in TEXTS if re.fullmatch(pattern, text)}
    constraint = compiled(pattern)
    if constraint is None:
        assert not wanted
        return
    for text in TEXTS:
        state = constraint.state_after(map(VOCABULARY.index, text))
        assert (state != DEAD and constraint.distance[state] == 0) == (text in wanted), text


PIECES = [*"ab1-{},^$[]()|\\?*+.:dwsDx0", "(?:", "[^", "{1,2}", r"\d", "[a-b]"]
KNOWN = "ab1-{},^$[]|\\"
SHORT = ["".join(t) for n in range(3) for t in itertools.product("ab1-{^]", repeat=n)]


@pytest.mark.filterwarnings("ignore:Possible")  # sets in sets, of which Python warns
@settings(max_examples=2_000, deadline=None)
@given(pieces=st.lists(st.sampled_from(PIECES), min_size=1, max_size=9))
def test_any_text_is_read_as_python_reads_it_or_refused(pieces):
    pattern = "".join(pieces)
    try:
        read = re.compile(pattern)
    except re.error:
        read = None
    try:
        constraint = compile_constraint(regex(pattern), KNOWN)
    except Validation as refusal:
        constraint, reason = None, str(refusal)
    if constraint is not None:
        assert read is not None
        for text in SHORT:
            state = constraint.state_after(map(KNOWN.index, text))
            is_match = state != DEAD and constraint.distance[state] == 0
            assert is_match == bool(read.fullmatch(text)), text
    elif "no text matches" in reason:
        assert read is not None
        assert not any(map(read.fullmatch, SHORT))
    else:
        assert ("not a regular expression" in reason) == (read is None) or "not served" in reason


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("a(?=b)", "look-ahead"),
        ("a(?!b)", "look-ahead"),
        ("(?<=a)b", "look-behind"),
        ("(?<!a)b", "look-behind"),
        (r"(a)\1", "a reference back"),
        ("(?P<x>a)(?P=x)", "a reference back"),
        (r"\k<x>", "a reference back"),
        (r"\bfoo", "a word boundary"),
        ("(?i)a", "a flag"),
        ("(?i:a)", "a flag"),
        ("(?>a)", "an atomic group"),
        ("a++", "a possessive quantifier"),
        ("(?(1)a|b)", "a conditional group"),
        ("(?#hm)a", "a comment"),
        (r"\p{L}", "a Unicode property"),
        ("[[:alpha:]]", "a set in a set"),
        ("[a--b]", "a set in a set"),
        ("[a&&b]", "a set in a set"),
        ("a^b", "an anchor"),
        ("(a$)b", "an anchor"),
        ("(^a)", "an anchor"),
        (r"\012", "an octal escape"),
    ],
)
def test_what_is_not_served_is_refused_by_its_name(pattern, name):
    with pytest.raises(Validation, match=f"the pattern has {name}.* at offset") as refusal:
        compile_constraint(regex(pattern), VOCABULARY)
    assert "which is not served" in str(refusal.value)


@pytest.mark.parametrize(
    "pattern",
    ["(", ")", "a)", "[a", "a{3,2}", "*a", "a**", "+", r"\q", "\\", r"\x4", "[b-a]", r"[a-\d]"],
)
def test_what_is_no_regular_expression_is_said_to_be_none(pattern):
    with pytest.raises(re.error):
        re.compile(pattern)
    with pytest.raises(Validation, match="not a regular expression"):
        compile_constraint(regex(pattern), VOCABULARY)


@pytest.mark.parametrize(
    "pattern", ["^ab$", r"\Aab\Z", "(?:ab)$", "^ab|^ab$", "ab$|b{5}", "(?P<x>a)(?<y>b)"]
)
def test_anchors_at_the_ends_and_names_change_nothing(pattern):
    constraint = compile_constraint(regex(pattern), VOCABULARY)
    assert constraint.state_after(map(VOCABULARY.index, "ab")) != DEAD
    assert constraint.shortest == 2


@pytest.mark.parametrize("pattern", ["a{x}", "{}", "a{", "x{1,2,3}|a", "a{,}"])
def test_braces_that_are_no_quantifier_are_characters_as_in_python(pattern):
    vocabulary = [*VOCABULARY, "x", "{", "}", ",", "2", "3"]
    constraint = compile_constraint(regex(pattern), vocabulary)
    for text in ["a{x}", "{}", "a{", "x{1,2,3}", "a", "aa", ""]:
        state = constraint.state_after(map(vocabulary.index, text))
        is_match = state != DEAD and constraint.distance[state] == 0
        assert is_match == bool(re.fullmatch(pattern, text))
