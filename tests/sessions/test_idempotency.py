"""A request's fingerprint is made only where a key needs it."""

from service.sessions.idempotency import idempotency_key


def test_a_part_that_is_a_function_counts_as_its_value():
    asked = idempotency_key("key", "generate", lambda: "body")
    assert asked == idempotency_key("key", "generate", "body")
    assert asked != idempotency_key("key", "generate", lambda: "another")


def test_without_a_key_nothing_is_computed():
    def fingerprint() -> str:
        raise AssertionError

    assert idempotency_key(None, "generate", fingerprint) is None
