"""Sizes and times of the HTTP side. Bounds of single fields are in `fields.py`."""

from dataclasses import dataclass

MIB, GIB = 1024**2, 1024**3


@dataclass(frozen=True, slots=True)
class ApiLimits:
    """What one server accepts and how long it waits; the defaults are those that it runs with."""

    max_body_bytes: int = 8 * MIB  # 1,000,000 characters, each as a JSON escape, and more
    max_json_brackets: int = 1_100_000  # those in strings count: 1,000,000 characters may be some
    body_timeout_s: float = 60.0

    max_model_upload_bytes: int = GIB
    max_model_upload_files: int = 32
    max_corpus_bytes: int = 64 * MIB
    max_score_text_bytes: int = GIB
    upload_timeout_s: float = 3_600.0
    max_session_import_bytes: int = 64 * MIB

    max_score_details_characters: int = 100_000  # a reply with every token; a stream has no limit
    max_session_text_characters: int = 1_000_000  # one reply; the next one continues there

    ping_interval_s: float = 15.0
    """A stream without data for so long gets a ping; one send that takes so long ends it."""

    event_poll_interval_s: float = 0.25  # how often the events of a train job are looked up
