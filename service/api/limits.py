"""Sizes and times of the HTTP side. Bounds of single fields are in `fields.py`."""

from dataclasses import dataclass

from service.api.json_size import JsonLimit

MIB, GIB = 1024**2, 1024**3
_JSON = JsonLimit(containers=16_384, values=131_072)


@dataclass(frozen=True, slots=True)
class ApiLimits:
    """The limits of one server, with their usual values."""

    max_body_bytes: int = 8 * MIB  # 1,000,000 characters as JSON escapes fit in
    json: JsonLimit = _JSON
    body_timeout_s: float = 60.0

    max_model_upload_bytes: int = GIB
    max_model_upload_files: int = 32
    max_corpus_bytes: int = 64 * MIB
    max_file_bytes: int = 200 * MIB  # of a batch, as OpenAI's
    max_score_text_bytes: int = GIB
    upload_timeout_s: float = 3_600.0
    max_session_import_bytes: int = 64 * MIB

    max_score_details_characters: int = 100_000  # with every token in one reply
    max_session_text_tokens: int = 1_000_000  # in one reply

    ping_interval_s: float = 15.0  # of a silent stream; a send that takes as long ends the stream
    event_poll_interval_s: float = 0.25  # of a train job
