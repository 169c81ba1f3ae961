import pytest
from hypothesis import given
from hypothesis import strategies as st

from carousel_client.sse import EventDecoder, ServerSentEvent

ENDS = ["\n", "\r\n", "\r"]
# Without line ends and surrogates; U+2028 and similar characters are no line ends here.
LINES = st.text(
    st.one_of(
        st.sampled_from("\u2028\u2029\x85\x0b\x0c\x1c: \ufeff中😀"),
        st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"),
    ),
    max_size=12,
)
NAMES = LINES.filter(lambda line: line and "\0" not in line)


@st.composite
def streams(draw) -> tuple[bytes, list[ServerSentEvent]]:
    """The bytes of a stream, and its events."""
    end = st.sampled_from(ENDS)
    text, events, last_id = draw(st.sampled_from(["", "\ufeff"])), [], ""
    for _ in range(draw(st.integers(0, 6))):
        fields, data, name = [], draw(st.lists(LINES, max_size=3)), "message"
        space = draw(st.sampled_from(["", " "]))
        # One space after the colon is not part of the value: one that starts with a space gets two.
        fields += [f"data:{space or ' ' * line.startswith(' ')}{line}" for line in data]
        if draw(st.booleans()):
            last_id = draw(NAMES)
            fields.insert(0, f"id: {last_id}")
        if draw(st.booleans()):
            name = draw(NAMES)
            fields.append(f"event: {name}")
        noise = st.sampled_from([": ping", ":", "retry: 10", "other: x", "id: a\0b", "nothing"])
        fields += draw(st.lists(noise, max_size=2))
        for field in [*fields, ""]:
            # After a \r a \n would complete a line end, and not be an empty line.
            text += field + draw(end if field or text[-1:] != "\r" else st.just("\r"))
        if data:
            events.append(ServerSentEvent("\n".join(data), last_id, name))
    return text.encode(), events


@given(streams(), st.data())
def test_events_do_not_depend_on_the_chunks(made, data):
    stream, events = made
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    decoder, found = EventDecoder(), []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += decoder.feed(stream[start:stop])
    assert found == events


@given(streams())
def test_byte_by_byte(made):
    stream, events = made
    decoder = EventDecoder()
    assert [event for byte in stream for event in decoder.feed(bytes([byte]))] == events


@pytest.mark.parametrize("end", ENDS)
def test_an_event_ends_with_its_empty_line(end):
    decoder = EventDecoder()
    assert decoder.feed(f"id: 1{end}data: a{end}".encode()) == []
    assert decoder.feed(end.encode()) == [ServerSentEvent("a", "1")]


def test_a_split_line_end_is_one_line_end():
    decoder = EventDecoder()
    assert decoder.feed(b"data: a\r") == []
    assert decoder.feed(b"\ndata: b\r\n\r") == [ServerSentEvent("a\nb")]
    assert decoder.feed(b"\ndata: c\n\n") == [ServerSentEvent("c")]


def test_invalid_utf8_becomes_replacement_characters():
    assert EventDecoder().feed(b"data: a\xe4\xb8\n\n") == [ServerSentEvent("a\ufffd")]
