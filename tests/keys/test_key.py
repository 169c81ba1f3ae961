"""The record of a key: what is refused, and until when a secret is valid."""

import pytest

from service.errors import StoreUnavailable, Validation
from service.keys.key import Key
from service.keys.secret import make_secret

FIRST, SECOND = make_secret("a" * 12), make_secret("a" * 12)


def key(**members) -> Key:
    usual = {
        "id": "a" * 12,
        "name": "team",
        "owner": "team",
        "scopes": ("generate",),
        "models": None,
        "created_s": 1.0,
        "expires_s": None,
        "digest": FIRST.digest,
    }
    return Key(**usual | members)


def test_a_key_is_stored_and_read_again():
    rotated = key(models=("demo", "other@2"), expires_s=9.5).rotated(SECOND, "r", 7.0)
    assert Key.from_json(rotated.to_json().encode()) == rotated
    assert FIRST.text not in rotated.to_json()


def test_a_record_of_a_later_version_is_read_and_a_damaged_one_lets_nobody_in():
    stored = key().to_json()
    assert Key.from_json(stored.replace("{", '{"colour": "red", ', 1).encode()) == key()
    for content in (b"", b"{}", b"[]", b"\xff", stored[:-1].encode(), b'{"scopes": 1}'):
        with pytest.raises(StoreUnavailable, match="damaged"):
            Key.from_json(content)
    with pytest.raises(StoreUnavailable, match="damaged"):
        Key.from_json(stored.replace('"generate"', '"root"').encode())


def test_both_secrets_are_valid_within_the_grace_and_one_after_it():
    rotated = key().rotated(SECOND, "r", 100.0)
    assert [rotated.status(one, 99.0) for one in (FIRST, SECOND)] == ["valid", "valid"]
    assert [rotated.status(one, 100.0) for one in (FIRST, SECOND)] == ["bad secret", "valid"]
    third = make_secret("a" * 12)
    again = rotated.rotated(third, "s", 200.0)
    assert [again.status(one, 99.0) for one in (FIRST, SECOND, third)] == [
        "bad secret",
        "valid",
        "valid",
    ]


def test_a_revoked_or_expired_key_has_no_valid_secret():
    rotated = key(expires_s=50.0).rotated(SECOND, "r", 100.0)
    assert [rotated.status(one, 50.0) for one in (FIRST, SECOND)] == ["expired", "expired"]
    assert rotated.status(SECOND, 49.9) == "valid"
    revoked = rotated.revoked(10.0)
    assert [revoked.status(one, 20.0) for one in (FIRST, SECOND)] == ["revoked", "revoked"]
    assert revoked.revoked(30.0).revoked_s == 10.0


def test_another_secret_says_nothing_of_the_key():
    other = make_secret("a" * 12)
    assert key(revoked_s=1.0).status(other, 2.0) == "bad secret"
    assert key(expires_s=1.0).status(other, 2.0) == "bad secret"


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "a b"}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"owner": "a/b"}, "owner"),
        ({"scopes": ()}, "scopes"),
        ({"scopes": ("generate", "root")}, "scopes"),
        ({"models": ()}, "models"),
        ({"models": ("demo",), "scopes": ("admin",)}, "models"),
    ],
)
def test_what_no_key_can_be_is_refused(members, field):
    with pytest.raises(Validation) as refused:
        key(**members)
    assert refused.value.field == field
