import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.client.event_stream import Event, EventParser

ENDS = ["\n", "\r\n", "\r"]
# No line ends, and nothing that UTF-8 has not; U+2028 and its like end no line here.
LINES = st.text(
    st.one_of(
        st.sampled_from("\u2028\u2029\x85\x0b\x0c\x1c: \ufeff中😀"),
        st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"),
    ),
    max_size=12,
)
NAMES = LINES.filter(lambda line: line and "\0" not in line)


@st.composite
def streams(draw) -> tuple[bytes, list[Event]]:
    """Bytes of a stream, and the events that they are."""
    end = st.sampled_from(ENDS)
    text, events, last_id = draw(st.sampled_from(["", "\ufeff"])), [], ""
    for _ in range(draw(st.integers(0, 6))):
        fields, data, name = [], draw(st.lists(LINES, max_size=3)), "message"
        space = draw(st.sampled_from(["", " "]))
        # One space after the colon is not part of the value, so one that is needs another.
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
            # After a \r a \n would be its other half, and not an empty line.
            text += field + draw(end if field or text[-1:] != "\r" else st.just("\r"))
        if data:
            events.append(Event("\n".join(data), last_id, name))
    return text.encode(), events


@given(streams(), st.data())
def test_where_a_stream_is_cut_into_pieces_changes_nothing(made, data):
    stream, events = made
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    parser, found = EventParser(), []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += parser.feed(stream[start:stop])
    assert found == events


@given(streams())
def test_byte_by_byte(made):
    stream, events = made
    parser = EventParser()
    assert [event for byte in stream for event in parser.feed(bytes([byte]))] == events


@pytest.mark.parametrize("end", ENDS)
def test_an_event_counts_only_with_its_empty_line(end):
    parser = EventParser()
    assert parser.feed(f"id: 1{end}data: a{end}".encode()) == []
    assert parser.feed(end.encode()) == [Event("a", "1")]


def test_a_line_end_that_is_cut_in_two_is_one():
    parser = EventParser()
    assert parser.feed(b"data: a\r") == []
    assert parser.feed(b"\ndata: b\r\n\r") == [Event("a\nb")]
    assert parser.feed(b"\ndata: c\n\n") == [Event("c")]


def test_what_is_not_utf8_is_shown_as_such():
    assert EventParser().feed(b"data: a\xe4\xb8\n\n") == [Event("a\ufffd")]
