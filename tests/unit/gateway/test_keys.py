"""Cache keys: equal for equal inputs, different for all others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.cache.keys import VERSION, EncodeKey, SamplingKey, answer_key, visual_tokens_key

ids = st.lists(st.integers(0, 2**32 - 1), max_size=4)
words = st.text(max_size=6)
scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False) | words
params = st.dictionaries(words, scalars | st.lists(scalars, max_size=2), max_size=3)
encodes = st.builds(
    EncodeKey,
    image_sha256=st.lists(words, max_size=2),
    text_ids=ids,
    pruner=words,
    pruner_params=params,
    keep_tokens=st.none() | st.just("auto") | st.integers(1, 600),
    keep_ratio=st.none() | st.floats(0.01, 1),
    wire_dtype=st.sampled_from([None, "float32", "float16"]),
    max_wire_bytes=st.none() | st.integers(1, 9),
    explain=st.booleans(),
    fingerprints=st.lists(words, max_size=3),
    videos=st.lists(st.lists(words, max_size=2), max_size=2),
    num_frames=st.none() | st.integers(1, 9),
    seconds_per_frame=st.none() | st.floats(0.1, 9),
    video_budget=st.sampled_from([None, "per_frame", "whole"]),
)
samplings = st.builds(
    SamplingKey,
    max_tokens=st.integers(1, 9),
    temperature=st.floats(0, 2),
    top_p=st.floats(0.1, 1),
    seed=st.none() | st.integers(0, 9),
    stop=st.lists(words, max_size=2),
)
requests = st.tuples(encodes, ids, samplings, st.lists(words, max_size=2))


def typed(value: Any) -> Any:
    """`value` with its types, so that True and 1 differ."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [typed(item) for item in value]
    return (type(value).__name__, repr(value))


@settings(deadline=None)
@given(encodes, encodes)
def test_visual_token_keys_are_equal_only_for_equal_inputs(a: EncodeKey, b: EncodeKey) -> None:
    assert (visual_tokens_key(a) == visual_tokens_key(b)) == (typed(vars(a)) == typed(vars(b)))


def _meaning(encode: EncodeKey, input_ids: list[int], sampling: SamplingKey, llm: list[str]) -> Any:
    if sampling.temperature == 0:
        sampling = replace(sampling, top_p=1.0, seed=None, temperature=0.0)
    return typed([vars(replace(encode, explain=False)), input_ids, vars(sampling), llm])


@settings(deadline=None)
@given(requests, requests)
def test_answer_keys_are_equal_only_for_equal_inputs(a: Any, b: Any) -> None:
    assert (answer_key(*a) == answer_key(*b)) == (_meaning(*a) == _meaning(*b))


@settings(deadline=None)
@given(requests)
def test_levels_share_no_key_and_the_order_of_parameters_is_ignored(request: Any) -> None:
    encode = request[0]
    reordered = replace(encode, pruner_params=dict(reversed(encode.pruner_params.items())))
    assert visual_tokens_key(reordered) == visual_tokens_key(encode)
    assert answer_key(*request) != visual_tokens_key(encode)
    assert visual_tokens_key(encode).startswith(f"fovea:{VERSION}:visual_tokens:")


def test_adjacent_elements_of_a_key_are_separated() -> None:
    one = EncodeKey(["ab"], [1, 23], "p", {}, None, 1.0, "float32", False, ["x", "yz"])
    for other in (
        replace(one, text_ids=[12, 3]),
        replace(one, fingerprints=["xy", "z"]),
        replace(one, image_sha256=["a", "b"]),
        replace(one, keep_tokens=1, keep_ratio=None),
        replace(one, pruner_params={"p": {}}),
        replace(one, image_sha256=[], videos=[["ab"]]),
        replace(one, num_frames=8),
    ):
        assert visual_tokens_key(other) != visual_tokens_key(one)
