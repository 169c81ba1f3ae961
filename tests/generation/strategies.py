"""Hypothesis strategies of requests and histories of a scheduler."""

from hypothesis import strategies as st

from service.generation.request import GenerationRequest, SamplingParams
from service.models.cells import CELLS
from service.models.spec import ModelSpec
from service.models.steering import ENDLESS, SteeredCell, Steering, SteerOp


def steerings(spec: ModelSpec) -> st.SearchStrategy[Steering]:
    """Steering of a model: none in half of the cases, else of states and gates, over spans."""
    layers = spec.recurrent_layers

    def of_cell(drawn: tuple) -> SteeredCell:
        layer, cell, target, op, value, start, length = drawn
        kind = CELLS[layers[layer % len(layers)].cell]
        targets = (kind.steered_state, kind.steered_state, *kind.activated)
        name = targets[target % len(targets)]
        if name != kind.steered_state and op is SteerOp.FREEZE:
            op = SteerOp.SET
        index, units = layer % len(layers), layers[layer % len(layers)].units
        return SteeredCell(index, cell % units, name, op, value, start, start + length)

    number, value = st.integers(0, 10_000), st.sampled_from([0.0, -0.0, 1.0, -0.7, 3.5, 40.0])
    length = st.sampled_from([1, 3, 10, ENDLESS])
    ops = st.sampled_from(list(SteerOp))
    one = st.tuples(number, number, number, ops, value, st.integers(0, 30), length).map(of_cell)
    some = st.lists(one, max_size=6, unique_by=lambda it: (it.layer, it.cell, it.target))
    return st.one_of(st.just(()), some.map(tuple))


def requests(
    vocabulary_size: int,
    characters: str,
    longest: int = 40,
    steer: st.SearchStrategy[Steering] | None = None,
) -> st.SearchStrategy:
    token = st.integers(0, vocabulary_size - 1)
    params = st.builds(
        SamplingParams,
        seed=st.integers(0, 2**64 - 1),
        temperature=st.sampled_from([0.0, 0.7, 1.0, 1.5]),
        top_k=st.sampled_from([0, 1, 3]),
        top_p=st.sampled_from([1.0, 0.8]),
        min_p=st.sampled_from([0.0, 0.1]),
        typical_p=st.sampled_from([1.0, 0.9]),
        repetition_penalty=st.sampled_from([1.0, 1.3]),
        frequency_penalty=st.sampled_from([0.0, 0.5]),
        presence_penalty=st.sampled_from([0.0, -0.5]),
        logit_bias=st.sampled_from([(), ((1, 2.5), (0, -1.0))]),
    )
    return st.builds(
        GenerationRequest,
        prompt=st.lists(token, min_size=1, max_size=longest).map(tuple),
        max_new_tokens=st.integers(1, longest),
        sampling=params,
        stop=st.lists(st.text(characters, min_size=1, max_size=3), max_size=2).map(tuple),
        top_tokens=st.sampled_from([0, 2]),
        min_new_tokens=st.sampled_from([0, 0, 4]),
        ignore_eos=st.sampled_from([False, False, True]),
        is_start=st.booleans(),
        owner=st.sampled_from(["", "", "a", "b"]),
        deadline_s=st.sampled_from([None, None, 1.0]),  # nobody has a clock here
        steer=st.just(()) if steer is None else steer,
    )


def histories(request: st.SearchStrategy, longest: int = 40) -> st.SearchStrategy:
    """Lists of actions: submit a request, run a burst, cancel, pause or resume the k-th."""
    index = st.integers(0, 15)
    return st.lists(
        st.one_of(
            st.tuples(st.just("submit"), request),
            st.tuples(st.just("work"), st.none()),
            st.tuples(st.just("cancel"), index),
            st.tuples(st.just("pause"), index),
            st.tuples(st.just("resume"), index),
        ),
        max_size=longest,
    )
