"""Cache keys: equal for equal requests, different for all others, in every process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from hypothesis import given, settings
from hypothesis import strategies as st

from fovea.budget import Budget
from fovea.v1 import encoder_pb2, llm_pb2
from gateway.core.cache_keys import VERSION, answer_key, visual_tokens_key
from gateway.core.canonical import canonical_digest
from gateway.core.encode_spec import EncodeSpec
from gateway.core.generate_spec import GenerateSpec, LlmPruning, Sampling
from gateway.media.files import MediaFile, Video

A, B = MediaFile.of(b"a"), MediaFile.of(b"b")
ENCODE = EncodeSpec(
    images=(A,),
    videos=(Video(A), Video(frames=(A, B))),
    text_ids=(1, 2),
    pruner="desap",
    pruner_params={"beta": 0.5, "list": [1, "x", None, True, {"deep": 2}]},
    budget=Budget.count(3),
    wire_dtype="int8",
    max_wire_bytes=900,
    num_frames=4,
    seconds_per_frame=0.5,
    video_budget="whole",
    image_fit="crop",
)
SAMPLED = Sampling(
    max_tokens=5,
    temperature=0.5,
    top_p=0.9,
    top_k=7,
    min_p=0.1,
    repetition_penalty=1.1,
    presence_penalty=0.2,
    frequency_penalty=0.3,
    seed=1,
    stop=("x",),
)
GENERATE = GenerateSpec(
    input_ids=(1, 2, 3),
    sampling=SAMPLED,
    llm_pruner=LlmPruning(name="fastv", params={"layer": 2}, budget=Budget.count(9)),
)
ENCODER, LLM = ("checkpoint", "", "settings"), ("checkpoint", "settings")

ENCODE_CHANGES: list[dict[str, Any]] = [
    {"images": (B,)},
    {"images": (A, A)},
    {"images": ()},
    {"videos": (Video(B), Video(frames=(A, B)))},
    {"videos": (Video(A), Video(frames=(B, A)))},
    {"videos": (Video(A), Video(B))},
    {"text_ids": (12,)},
    {"text_ids": ()},
    {"pruner": "fovea"},
    {"pruner_params": {}},
    {"pruner_params": {**ENCODE.pruner_params, "beta": 0.25}},
    {"pruner_params": {**ENCODE.pruner_params, "beta": "0.5"}},
    {"budget": Budget.ratio(0.5)},
    {"budget": Budget.count(4)},
    {"budget": Budget.auto()},
    {"budget": None},
    {"wire_dtype": "float16"},
    {"wire_dtype": None},
    {"max_wire_bytes": 901},
    {"max_wire_bytes": None},
    {"num_frames": 5},
    {"seconds_per_frame": 0.25},
    {"video_budget": "per_frame"},
    {"image_fit": "pad"},
    {"image_fit": None},
    {"explain": True},
    {"cache_salt": "tenant"},
]
GENERATE_CHANGES: list[dict[str, Any]] = [
    {"input_ids": (1, 23)},
    {"llm_pruner": None},
    {"top_logprobs": 0},
    {"cache_salt": "tenant"},
    {"llm_pruner": LlmPruning(name="v2drop", params={"layer": 2}, budget=Budget.count(9))},
    {"llm_pruner": LlmPruning(name="fastv", params={}, budget=Budget.count(9))},
    {"llm_pruner": LlmPruning(name="fastv", params={"layer": 2}, budget=Budget.ratio(0.5))},
    *(
        {"sampling": replace(SAMPLED, **change)}
        for change in (
            {"max_tokens": 6},
            {"temperature": 0.6},
            {"top_p": 0.8},
            {"top_k": 8},
            {"min_p": 0.2},
            {"repetition_penalty": 1.2},
            {"presence_penalty": 0.3},
            {"frequency_penalty": 0.4},
            {"seed": 2},
            {"stop": ("x", "y")},
            {"ignore_eos": True},
        )
    ),
]
NOT_IN_KEYS: Mapping[str, str] = {
    "GenerateRequest.visual_tokens": "the encode call is in the key, from which they follow",
    "GenerateRequest.first_token_logprobs": "the gateway never asks for them",
    "GenerateRequest.cross_attention": "asked for with one token, which is not cached",
    "CrossAttention.layer": "see cross_attention",
}


def keys(encode: EncodeSpec = ENCODE, generate: GenerateSpec = GENERATE) -> tuple[str, str]:
    tokens = visual_tokens_key(encode.to_key_proto(), ENCODER)
    return tokens, answer_key(tokens, generate, LLM)


@pytest.mark.parametrize("change", ENCODE_CHANGES, ids=str)
def test_every_option_of_the_encode_call_changes_both_keys(change: dict[str, Any]) -> None:
    tokens, answer = keys(replace(ENCODE, **change))
    assert tokens != keys()[0]
    assert answer != keys()[1]


@pytest.mark.parametrize("change", GENERATE_CHANGES, ids=str)
def test_every_option_of_the_generate_call_changes_the_key_of_the_answer(change: dict[str, Any]) -> None:
    tokens, answer = keys(generate=replace(GENERATE, **change))
    assert tokens == keys()[0]
    assert answer != keys()[1]


def fields_of(descriptor: Descriptor) -> Iterator[str]:
    """All fields of a message and of the messages in it, but for those of Struct and of those not in keys."""
    for field in descriptor.fields:
        name = f"{descriptor.name}.{field.name}"
        yield name
        inner = field.message_type
        if inner is not None and inner.full_name != Struct.DESCRIPTOR.full_name and name not in NOT_IN_KEYS:
            yield from fields_of(inner)


def differing(a: Message, b: Message) -> Iterator[str]:
    """The fields in which two messages of one type differ."""
    for field in a.DESCRIPTOR.fields:
        x, y = getattr(a, field.name), getattr(b, field.name)
        if x == y and (not field.has_presence or a.HasField(field.name) == b.HasField(field.name)):
            continue
        yield f"{a.DESCRIPTOR.name}.{field.name}"
        inner = field.message_type
        if inner is None or inner.full_name == Struct.DESCRIPTOR.full_name:
            continue
        for left, right in [(x, y)] if isinstance(x, Message) else zip(x, y, strict=False):
            yield from differing(left, right)


def test_no_field_of_the_messages_is_left_out_of_the_keys() -> None:
    """A new field fails here until a change above shows that it changes the key, or the list says why it need not."""
    changed: set[str] = set()
    for change in ENCODE_CHANGES:
        changed |= set(differing(ENCODE.to_proto(), replace(ENCODE, **change).to_proto()))
    for change in GENERATE_CHANGES:
        changed |= set(differing(GENERATE.to_proto(), replace(GENERATE, **change).to_proto()))
    expected = {
        *fields_of(encoder_pb2.EncodeRequest.DESCRIPTOR),
        *fields_of(llm_pb2.GenerateRequest.DESCRIPTOR),
    } - NOT_IN_KEYS.keys()
    assert changed == expected


def test_fingerprints_of_both_services_change_the_keys() -> None:
    assert visual_tokens_key(ENCODE.to_key_proto(), ("other", "", "settings")) != keys()[0]
    assert answer_key(visual_tokens_key(ENCODE.to_key_proto(), ("other", "", "settings")), GENERATE, LLM) != keys()[1]
    assert answer_key(keys()[0], GENERATE, ("checkpoint", "other")) != keys()[1]
    assert visual_tokens_key(ENCODE.to_key_proto(), ("ab", "c")) != visual_tokens_key(
        ENCODE.to_key_proto(), ("a", "bc")
    )


def test_levels_share_no_key_and_the_order_of_parameters_is_ignored() -> None:
    reordered = replace(ENCODE, pruner_params=dict(reversed(ENCODE.pruner_params.items())))
    assert keys(reordered) == keys()
    assert keys()[0] != keys()[1]
    assert keys()[0].startswith(f"fovea:{VERSION}:visual_tokens:")


def test_what_greedy_decoding_ignores_is_not_in_the_key() -> None:
    defaults = {"temperature": 0.0, "top_p": 1.0, "repetition_penalty": 1.05}
    accepted = ("top_p", "top_k", "min_p", "repetition_penalty")

    def key(**fields: Any) -> str:
        sampling = Sampling(max_tokens=5, **fields).resolved(defaults, accepted)
        return keys(generate=replace(GENERATE, sampling=sampling))[1]

    assert key(top_p=0.5, top_k=3, min_p=0.1, seed=7) == key() == key(repetition_penalty=1.05)
    assert key(repetition_penalty=1.0) != key()
    assert key(temperature=1.0, seed=7) != key(temperature=1.0, seed=8)
    assert key(presence_penalty=0.0) == key()  # the service lacks it, and 0 has no effect
    assert key(ignore_eos=False) == key()


numbers = st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | st.text(max_size=4)
trees = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))
structs = st.dictionaries(st.text(max_size=4), trees, max_size=4)


def struct(values: Mapping[str, Any]) -> Struct:
    message = Struct()
    message.update(values)
    return message


@settings(deadline=None)
@given(structs, structs)
def test_digests_are_equal_only_for_equal_messages(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert (canonical_digest(struct(a)) == canonical_digest(struct(b))) == (struct(a) == struct(b))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_json_lacks_has_no_digest(value: float) -> None:
    with pytest.raises(ValueError, match="is not a finite number"):
        canonical_digest(llm_pb2.SamplingParams(temperature=value))


def test_one_and_one_point_zero_are_the_same_number() -> None:
    assert canonical_digest(struct({"x": 1})) == canonical_digest(struct({"x": 1.0}))
    assert canonical_digest(struct({"x": 1})) != canonical_digest(struct({"x": "1"}))
    assert canonical_digest(struct({"x": 1})) != canonical_digest(struct({"x": True}))
    assert canonical_digest(struct({"x": 2**53})) != canonical_digest(struct({"x": 2.0**53 + 2}))


SCRIPT = """
import google.protobuf
from tests.unit.gateway.test_keys import keys
print(google.protobuf.__version__, *keys())
"""


def keys_of_another_process(hash_seed: str, site: Path | None) -> list[str]:
    paths = [str(path) for path in (site, Path.cwd()) if path is not None]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-W", "error::DeprecationWarning:gateway", "-c", SCRIPT]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.split()


@pytest.fixture(scope="module")
def newest_protobuf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the newest protobuf."""
    folder = tmp_path_factory.mktemp("protobuf")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), "protobuf>=6"]
    if subprocess.run(install, capture_output=True, check=False).returncode:
        pytest.skip("no package index is in reach, from which the newest protobuf comes")
    return folder


def test_processes_with_other_hash_seeds_make_the_same_keys() -> None:
    assert [keys_of_another_process(seed, None)[1:] for seed in ("1", "2")] == [list(keys())] * 2


def test_another_version_of_protobuf_makes_the_same_keys(newest_protobuf: Path) -> None:
    installed, newest = keys_of_another_process("1", None), keys_of_another_process("2", newest_protobuf)
    assert installed[0].startswith("5.29.")
    assert int(newest[0].partition(".")[0]) >= 6
    assert newest[1:] == installed[1:]
