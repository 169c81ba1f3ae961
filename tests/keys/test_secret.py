"""The text of a key."""

import random

import pytest

from service.keys.secret import make_secret, new_id, parse_secret


def test_a_secret_is_read_again():
    secret = make_secret(new_id())
    assert parse_secret(secret.text) == secret
    assert len({make_secret("a" * 12).text for _ in range(100)}) == 100


def test_every_mistyped_character_is_found():
    text = make_secret(new_id()).text
    draw = random.Random(0)
    for at in range(len(text)):
        other = draw.choice([c for c in "abcdefghijklmnopqrstuvwxyz234567_" if c != text[at]])
        assert parse_secret(text[:at] + other + text[at + 1 :]) is None


@pytest.mark.parametrize("text", ["", "none", "carousel_", "sk-" + "a" * 48, "é" * 80, "a" * 9_999])
def test_another_text_is_no_secret(text):
    assert parse_secret(text) is None


def test_a_shortened_secret_is_none():
    text = make_secret(new_id()).text
    assert parse_secret(text[:-1]) is None
    assert parse_secret(text + "a") is None


def test_a_secret_does_not_show_in_its_repr():
    secret = make_secret(new_id())
    assert secret.text not in repr(secret)
