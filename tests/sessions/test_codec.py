import json
from dataclasses import MISSING, fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import BadRequest, Validation
from service.generation.request import GenerationRequest, SamplingParams
from service.models.steering import SteeredCell, SteerOp
from service.models.step import State
from service.sessions.codec import (
    DamagedState,
    Export,
    pack_state,
    pack_tokens,
    unpack_state,
    unpack_tokens,
)
from service.sessions.session import EventId, OnDisconnect, SessionKey, token_width
from service.sessions.signing import Signer, read_secret
from service.sessions.turn_record import _OMITTED, TurnRecord

DIGEST, OTHER = "ab" * 32, "cd" * 32
SIGNER = Signer(b"s" * 32)
widths = st.lists(st.integers(1, 9), min_size=1, max_size=4)


def a_state(position: int, sizes: list[int]) -> State:
    random = np.random.default_rng(position)
    return State(position, tuple(random.normal(size=n).astype(np.float32) for n in sizes))


@given(st.integers(0, 2**40), widths)
def test_a_state_comes_back_to_the_bit(position, sizes):
    state = a_state(position, sizes)
    back = unpack_state(pack_state(state, DIGEST), DIGEST, sizes)
    assert back.position == position
    for a, b in zip(back.arrays, state.arrays, strict=True):
        assert a.dtype == np.float32
        assert a.tobytes() == b.tobytes()


@given(st.data())
def test_a_changed_or_cut_state_is_found_out(data):
    packed = pack_state(a_state(7, [3, 3]), DIGEST)
    place = data.draw(st.integers(0, len(packed) - 1))
    changed = bytearray(packed)
    changed[place] ^= data.draw(st.integers(1, 255))
    is_position = 4 <= place < 12
    if not is_position:
        with pytest.raises(DamagedState):
            unpack_state(bytes(changed), DIGEST, [3, 3])
    with pytest.raises(DamagedState):
        unpack_state(packed[:place], DIGEST, [3, 3])


def test_a_state_of_another_model_or_shape_is_refused():
    packed = pack_state(a_state(7, [3, 3]), DIGEST)
    for digest, sizes in ((OTHER, [3, 3]), (DIGEST, [3, 4]), (DIGEST, [3])):
        with pytest.raises(DamagedState):
            unpack_state(packed, digest, sizes)


@given(st.sampled_from([256, 257, 65_536]), st.data())
def test_tokens_take_one_byte_or_two(vocabulary, data):
    tokens = data.draw(st.lists(st.integers(0, vocabulary - 1)))
    width = token_width(vocabulary)
    packed = pack_tokens(tokens, width)
    assert width == (1 if vocabulary == 256 else 2)
    assert len(packed) == width * len(tokens)
    assert unpack_tokens(packed, width) == tokens


def test_an_export_comes_back_and_only_with_the_same_secret():
    state = pack_state(a_state(3, [2]), DIGEST)
    export = Export("m@1", DIGEST, 2**64 - 1, 1, b"abcd", state)
    packed = export.pack(SIGNER)
    assert Export.unpack(packed, SIGNER) == export
    with pytest.raises(Validation, match="CAROUSEL_SECRET"):
        Export.unpack(packed, Signer(b"t" * 32))


@given(st.binary(max_size=200))
def test_an_export_of_any_bytes_is_a_named_error(content):
    for packed in (content, b"CRX1" + content):
        with pytest.raises(Validation):
            Export.unpack(packed, SIGNER)


def test_ids_are_random_and_tagged_with_their_owner():
    ids = {SIGNER.new_id("a") for _ in range(200)}
    assert len(ids) == 200
    for one in ids:
        assert SIGNER.is_own("a", one)
        assert not SIGNER.is_own("b", one)
        assert not SIGNER.is_own("a", one[:-1] + "1")
        SessionKey("a", one)
    assert not Signer(b"t" * 32).is_own("a", ids.pop())
    assert not SIGNER.is_own("a", "é" * 34)


def test_a_secret_is_made_once_and_then_read(tmp_path):
    secret = read_secret(tmp_path / "data", None)
    assert read_secret(tmp_path / "data", None) == secret
    assert (tmp_path / "data" / "secret").stat().st_mode & 0o777 == 0o600
    assert len(secret) == 64
    given_one = "x" * 32
    assert read_secret(tmp_path / "data", given_one) == given_one.encode()
    with pytest.raises(BadRequest, match="32"):
        read_secret(tmp_path, "short")


@given(
    st.integers(1, 10**6),
    st.integers(0, 2**64 - 1),
    st.floats(0, 5),
    st.lists(st.tuples(st.integers(0, 9), st.floats(-100, 100)), max_size=3),
    st.lists(st.text(min_size=1, max_size=5), max_size=2),
    st.sampled_from(list(OnDisconnect)),
)
@settings(max_examples=50)
def test_a_turn_record_is_decoded_as_it_was(n, seed, temperature, bias, stop, on_disconnect):
    sampling = SamplingParams(seed, temperature, logit_bias=tuple(bias))
    request = GenerationRequest((1, 2), n, sampling, tuple(stop), top_tokens=3)
    record = TurnRecord.of(request, on_disconnect, {"prefix": "x"}, shows_prompt=True)
    assert TurnRecord.from_json(record.to_json()) == record
    begun = replace(request, owner="o", return_state=True)
    text = TurnRecord.json_of(begun, on_disconnect, {"prefix": "x"}, shows_prompt=True)
    assert text == record.to_json()
    assert record.request((1, 2)) == request


# A value unlike the default for each type of field: a new field is recorded, or the test fails.
ODD = {int: 7, float: 0.25, str: "x"}


def test_a_turn_record_has_every_parameter():
    def odd(default):
        if default is MISSING or default is None or isinstance(default, bool):
            return 7
        return ((3, 0.5),) if default == () else ODD[type(default)]

    steer = (SteeredCell(0, 3, "c", SteerOp.SCALE, 0.5, 4, 9),)
    of_sampling = {one.name: odd(one.default) for one in fields(SamplingParams)}
    others = {
        one.name: odd(one.default)
        for one in fields(GenerationRequest)
        if one.name not in {*_OMITTED, "sampling", "steer"}
    }
    sampling = SamplingParams(**of_sampling)
    request = GenerationRequest((1,), sampling=sampling, steer=steer, **others)
    record = TurnRecord.from_json(TurnRecord.of(request, OnDisconnect.CANCEL, {}).to_json())
    assert record.request((1,)) == request


def test_a_turn_record_omits_defaults():
    request = GenerationRequest((1,), 20, SamplingParams(5, 0.8))
    record = TurnRecord.of(request, OnDisconnect.CANCEL, {})
    assert json.loads(record.to_json()) == {
        "max_new_tokens": 20,
        "sampling": {"seed": 5, "temperature": 0.8},
    }


@given(st.integers(0, 10**15 - 1), st.integers(0, 10**15 - 1), st.integers(0, 10**15 - 1))
def test_an_event_id_comes_back(epoch, turn, position):
    event = EventId(epoch, turn, position)
    assert EventId.parse(str(event)) == event


@pytest.mark.parametrize("text", ["", "1", "1.2", "1.2.3.4", "a.b.c", "1.2.", "٣.1.1", "1.2.-3"])
def test_what_is_no_event_id_is_refused(text):
    with pytest.raises(Validation, match=r"0\.3\.517"):
        EventId.parse(text)


@given(st.sampled_from([256, 257, 65_536, 65_537, 131_072]), st.data())
def test_the_largest_token_of_a_vocabulary_comes_back(size, data):
    tokens = [size - 1, *data.draw(st.lists(st.integers(0, size - 1), max_size=9))]
    packed = pack_tokens(tokens, token_width(size))
    assert unpack_tokens(packed, token_width(size)) == tokens
    assert len(packed) == token_width(size) * len(tokens)
