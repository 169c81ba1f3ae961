"""Each property against a text that is marked by hand, and the same for every prefix."""

import numpy as np
import pytest

from service.errors import Validation
from service.inspection.labels import given_label, matched_label, named_label, spanned_label
from service.inspection.properties import PROPERTIES


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("in_double_quotes", 'a "bc" d', "00111000"),
        ("in_double_quotes", 'a "b\n\nc', "0011100"),
        ("in_single_quotes", "it's 'a' ", "000001100"),
        ("in_parentheses", "a(b(c))d)(", "0111110001"),
        ("in_brackets", "[a]b", "1100"),
        ("in_braces", "{a}b", "1100"),
        ("depth", "([{}])(\n\na", "1232101100"),
        ("quotation_length", 'a"bc"d', "012300"),
        ("column", "ab\ncd", "12012"),
        ("indent", "  a b\n c", "12222011"),
        ("in_indent", "  a b\n c", "11000110"),
        ("place_in_word", "ab_1 c", "123401"),
        ("since_sentence_end", "a. b\u3002c", "120101"),
        ("line_of_paragraph", "a\nb\n\nc\n", "0112001"),
        ("run_of_capitals", "aBCd", "0120"),
        ("run_of_digits", "a12.3", "01201"),
        ("in_url", "a http://b c", "000000001100"),
        ("in_comment", "a # b\nc //d", "00111000011"),
        ("in_curly_quotes", "a\u201cb\u201dc", "01100"),
        ("in_title_marks", "a\u300ab\u300bc", "01100"),
        ("since_punctuation", "a\uff0cbc", "1012"),
        ("place_in_verse", "a\uff0cb\nc", "10101"),
    ],
)
def test_a_property_is_what_its_name_says(name, text, expected):
    values = named_label(name, text).values
    assert "".join(f"{value:.0f}" for value in values) == expected
    for n in range(len(text)):
        assert (named_label(name, text[:n]).values == values[:n]).all()


def test_every_property_is_marked_by_hand_here():
    marks = test_a_property_is_what_its_name_says.pytestmark[0].args[1]
    assert {name for name, _, _ in marks} == {*PROPERTIES}


def test_a_match_is_the_longest_from_its_place():
    text = "see [12] and [3], [] and [4]5]"
    found = matched_label("citation", r"\[[0-9]+\]", text)
    assert "".join("x" if value else "." for value in found.values) == (
        "....xxxx.....xxx.........xxx.."
    )
    assert found.has_hindsight
    assert matched_label("a", "aa|aaa", "aaaaa").values.tolist() == [1] * 5
    assert matched_label("b", "b+", "a" * 10 + "b").values.sum() == 1
    with pytest.raises(Validation, match="no text matches the regex"):
        matched_label("c", "z", "abc")


def test_spans_and_values_are_taken_as_they_are():
    assert spanned_label("s", [[0, 1], [2, 4]], "abcde").values.tolist() == [1, 0, 1, 1, 0]
    assert given_label("v", [0.5, 1, 2], "abc").kind == "number"
    label = given_label("v", [0, 1, 1], "abc")
    assert label.kind == "binary"
    assert label.at(np.array([1, 3])).tolist() == [0, 1]
