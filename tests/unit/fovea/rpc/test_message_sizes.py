"""Sizes of serialized messages, checked before the messages are parsed."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import struct_pb2
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto
from google.protobuf.internal.encoder import _VarintBytes
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from fovea.errors import InvalidRequest, MalformedRequest, ServiceError
from fovea.rpc.message_sizes import MAX_DEPTH, MAX_FIELDS, MAX_NUMBERS, MAX_STRUCT_ITEMS, check_sizes
from fovea.rpc.messages import parse
from fovea.v1 import encoder_pb2, limits_pb2, llm_pb2, pruner_pb2, tensor_pb2

GENERATE = llm_pb2.GenerateRequest
ENCODE = encoder_pb2.EncodeRequest


def delimited(number: int, body: bytes) -> bytes:
    """Field `number` with a body of bytes, a message, or packed numbers."""
    return _VarintBytes(number << 3 | 2) + _VarintBytes(len(body)) + body


def all_messages() -> Iterator[Descriptor]:
    for module in (encoder_pb2, llm_pb2, pruner_pb2, tensor_pb2):
        yield from module.DESCRIPTOR.message_types_by_name.values()


def test_every_repeated_field_has_a_cap_in_the_proto() -> None:
    found = 0
    for message in all_messages():
        proto = DescriptorProto()
        message.CopyToProto(proto)
        for field in proto.field:
            if field.label == FieldDescriptorProto.LABEL_REPEATED:
                assert field.options.Extensions[limits_pb2.max_items] > 0, f"{message.name}.{field.name}"
                found += 1
    assert found > 20


LOGPROB = llm_pb2.TokenLogprob(
    token_id=70_000,
    token=b"\xc3",
    logprob=-0.5,
    top=[llm_pb2.TopLogprob(token_id=i + 1, token=b" x", logprob=-i - 1) for i in range(20)],
)
SOUND = [
    GENERATE(),
    GENERATE(
        input_ids=[1, 300, 2**32 - 1],
        visual_tokens=[
            tensor_pb2.VisualTokens(
                features=tensor_pb2.Tensor(dtype=1, shape=[2, 3], data=bytes(24), crc32=7),
                positions=[5, 1000],
                grid=tensor_pb2.Grid(frames=1, rows=24, columns=24),
                fingerprint="é",
                newline_after=[0, 0],
                seconds_per_frame=0.5,
            )
        ]
        * 3,
        sampling=llm_pb2.SamplingParams(max_tokens=1, temperature=0.7, seed=2**64 - 1, stop=["a"] * 8),
        llm_pruner=llm_pb2.LlmPruner(name="fastv", params=struct_pb2.Struct(), keep_ratio=0.5),
        cross_attention=llm_pb2.CrossAttention(layer=3),
    ),
    ENCODE(
        images=[b"\xff" * 100, b""],
        text_ids=range(500),
        videos=[
            encoder_pb2.Video(frames=encoder_pb2.Frames(images=[b"x"] * 64)),
            encoder_pb2.Video(file=b"y", num_frames=8),
        ],
        keep_auto=True,
    ),
    encoder_pb2.EncodeResponse(
        explanations=[encoder_pb2.Explanation(task_map=[0.5] * 100, merged_into=[-1, 5, 2**31 - 1])],
        features_cached=[True, False],
        timing=encoder_pb2.EncodeTiming(queue_ms=1.5),
    ),
    llm_pb2.GenerateResponse(done=llm_pb2.Done(first_token_logprobs=[-1.0] * 300, token_ids=[1] * 2048)),
    llm_pb2.GenerateResponse(delta=llm_pb2.Delta(text="é", logprobs=[LOGPROB] * 256)),
]
SOUND[1].llm_pruner.params.update({"a": 1, "b": [1, None, {"c": "d"}]})


@pytest.mark.parametrize("message", SOUND)
def test_a_message_is_parsed_to_what_was_sent(message: GENERATE) -> None:
    assert parse(type(message), message.SerializeToString()) == message


@given(
    st.sampled_from(SOUND), st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4), st.integers(0)
)
def test_spoiled_bytes_are_read_as_protobuf_reads_them_or_refused(
    message: GENERATE, spoiled: list[tuple[int, int]], end: int
) -> None:
    data = bytearray(message.SerializeToString())
    for place, byte in spoiled if data else ():
        data[place % len(data)] = byte
    data = data[: end % (len(data) + 1)] if end % 2 else data
    try:
        read = parse(type(message), bytes(data))
    except ServiceError:
        return
    # By bytes: a NaN is not equal to itself.
    theirs = type(message).FromString(bytes(data))
    assert read.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)


@given(st.binary(max_size=300), st.sampled_from([GENERATE, ENCODE, encoder_pb2.EncodeResponse]))
def test_random_bytes_are_parsed_or_refused(data: bytes, kind: type[GENERATE]) -> None:
    try:
        parse(kind, data)
    except ServiceError:
        return
    kind.FromString(data)


@pytest.mark.parametrize(
    ("kind", "full", "one_more", "param"),
    [
        (llm_pb2.SamplingParams, b"\x2a\x00" * 8, b"\x2a\x00", "stop"),
        (GENERATE, b"\x12\x00" * 128, b"\x12\x00", "visual_tokens"),
        (GENERATE, delimited(1, b"\1" * 2**20), b"\x08\x01", "input_ids"),
        (GENERATE, delimited(1, b"\1" * 2**19) * 2, delimited(1, b"\1"), "input_ids"),
        (ENCODE, b"\x0a\x00" * 64, b"\x0a\x00", "images"),
        (ENCODE, delimited(2, b"\xff\x01" * 2**16), b"\x10\x01", "text_ids"),
        (ENCODE, b"\x10\x01" * 100, delimited(2, b"\xff\x01" * (2**16 - 99)), "text_ids"),
        (encoder_pb2.Explanation, delimited(1, bytes(4 * 2**20)), delimited(1, bytes(4)), "task_map"),
        (encoder_pb2.Explanation, delimited(3, b"\x01" * 2**20), b"\x18\x01", "merged_into"),
        (encoder_pb2.EncodeResponse, delimited(6, b"\1" * 128), b"\x30\x01", "features_cached"),
        (struct_pb2.ListValue, b"\x0a\x00" * MAX_STRUCT_ITEMS, b"\x0a\x00", None),
    ],
)
def test_a_field_holds_as_much_as_its_cap_and_no_more(
    kind: type[GENERATE], full: bytes, one_more: bytes, param: str | None
) -> None:
    parse(kind, full)
    with pytest.raises(InvalidRequest, match="at most") as caught:
        parse(kind, full + one_more)
    assert caught.value.param == param


def test_a_nested_limit_is_named_by_its_path() -> None:
    with pytest.raises(InvalidRequest, match="at most 1024 accepted") as caught:
        parse(ENCODE, delimited(9, delimited(2, b"\x0a\x00" * 1025)))
    assert caught.value.param == "videos.frames.images"
    wide = struct_pb2.ListValue().SerializeToString() + b"\x0a\x00" * (MAX_STRUCT_ITEMS + 1)
    value = delimited(6, wide)
    with pytest.raises(InvalidRequest) as caught:
        parse(ENCODE, delimited(4, delimited(1, delimited(1, b"a") + delimited(2, value))))
    assert caught.value.param == "pruner_params"


def nested(depth: int) -> bytes:
    """A list in a list in a list ... as the value of a Struct: two messages for each."""
    body = b""
    for _ in range(depth):
        body = delimited(6, delimited(1, body))
    return delimited(4, delimited(1, delimited(2, body)))


def test_messages_nest_to_a_depth_and_no_deeper() -> None:
    deepest = (MAX_DEPTH - 4) // 2  # below the request, the Struct, its entry and that one's value
    parse(ENCODE, nested(deepest))
    with pytest.raises(InvalidRequest, match=f"at most {MAX_DEPTH} deep"):
        parse(ENCODE, nested(deepest + 1))
    with pytest.raises(InvalidRequest, match=f"at most {MAX_DEPTH} deep"):
        parse(ENCODE, nested(20_000))


@pytest.mark.parametrize("field", [b"\x78\x01", b"\x7a\x00", b"\x7d1234", b"\x7912345678", b"\x20\x01"])
def test_unknown_and_repeated_fields_count_too(field: bytes) -> None:
    parse(GENERATE, field * MAX_FIELDS)
    with pytest.raises(InvalidRequest, match=f"at most {MAX_FIELDS} fields"):
        parse(GENERATE, field * (MAX_FIELDS + 1))
    with pytest.raises(InvalidRequest, match=f"at most {MAX_FIELDS} fields"):
        parse(GENERATE, delimited(3, field * (MAX_FIELDS // 2)) + delimited(5, field * (MAX_FIELDS // 2)))


def test_packed_numbers_are_bounded_in_all() -> None:
    positions = delimited(2, delimited(2, b"\1" * 2**20))
    parse(GENERATE, positions * (MAX_NUMBERS >> 20))
    with pytest.raises(InvalidRequest, match=f"at most {MAX_NUMBERS} packed numbers"):
        parse(GENERATE, positions * (MAX_NUMBERS >> 20) + delimited(1, b"\1"))


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff",  # a number without an end
        b"\x12\x7f\x01",  # ends before it should
        b"\x7a" + b"\xff" * 9 + b"\x01",  # longer than any message
        b"\x0d\x01\x02",  # half a number
        b"\x0b\x0c",  # a group, of a field that is none
        b"\x7b\x7c",  # an unknown field
        b"\x00\x00",  # field 0
        b"\x0f",  # a wire type that does not exist
        delimited(3, delimited(5, b"\xff\xfe")),  # text that is no UTF-8
        delimited(1, b"\x80"),  # packed numbers that end in the middle of one
        b"GET / HTTP/1.1\r\n",
    ],
)
def test_bytes_that_are_no_message_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedRequest, match="not a message of the type"):
        parse(GENERATE, data)


def test_a_field_that_holds_one_message_comes_once() -> None:
    """protobuf merges them, and the caps of what is inside would add up."""
    shape = delimited(1, delimited(2, b"\1" * 8))
    parse(tensor_pb2.VisualTokens, shape)
    with pytest.raises(InvalidRequest, match=r"features is too large: at most 1 accepted"):
        parse(tensor_pb2.VisualTokens, shape * 2)


def test_the_last_of_two_numbers_counts_as_protobuf_has_it() -> None:
    assert parse(tensor_pb2.Grid, b"\x08\x01\x08\x05").frames == 5
    assert parse(tensor_pb2.Grid, delimited(1, b"\x05")).frames == 0  # another wire type: another field


@pytest.mark.parametrize(
    "data",
    [
        b"\x12\x00" * 10_000_000,
        delimited(3, b"\x2a\x00" * 10_000_000),
        delimited(1, b"\1" * 20_000_000),
        b"\x78\x01" * 10_000_000,
        delimited(2, delimited(2, b"\1" * 20_000_000)),
    ],
    ids=["visual tokens", "stop strings", "ids", "unknown", "positions"],
)
def test_what_is_too_large_is_refused_before_it_takes_memory(data: bytes) -> None:
    """As objects the first of them is 900 MB."""
    tracemalloc.start()
    with pytest.raises(InvalidRequest):
        check_sizes(data, GENERATE.DESCRIPTOR)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize("packed", [b"\x80" * 2**20, b"\x80" * 10 + b"\x01"], ids=["without an end", "11 bytes"])
def test_packed_numbers_that_are_too_long_end_the_walk(packed: bytes) -> None:
    """They count as few numbers, so no limit would end it."""
    with pytest.raises(MalformedRequest):
        check_sizes(delimited(1, packed), GENERATE.DESCRIPTOR)
    with pytest.raises(DecodeError):
        GENERATE.FromString(delimited(1, packed))


def test_numbers_of_ten_bytes_are_counted_across_all_parts_of_a_field() -> None:
    longest = b"\xff" * 9 + b"\x01"
    assert len(parse(GENERATE, delimited(1, longest * 2**20)).input_ids) == 2**20
    with pytest.raises(InvalidRequest, match="at most 1048576 accepted"):
        parse(GENERATE, delimited(1, longest * 2**20) + delimited(1, b"\x01"))


def test_the_walk_agrees_with_protobuf_about_what_cannot_be_read() -> None:
    for data in (b"\xff\xff\xff", b"\x12\x7f\x01", b"\x0d\x01\x02", b"\x00\x00"):
        with pytest.raises(DecodeError):
            GENERATE.FromString(data)


def test_the_limits_are_those_of_the_proto() -> None:
    proto = Path(__file__, "../../../../../proto/fovea/v1/limits.proto").resolve().read_text().replace(",", "")
    for text in (
        f"at most {MAX_FIELDS} fields and {MAX_NUMBERS} packed numbers",
        f"nest at most {MAX_DEPTH} deep",
        f"have at most {MAX_STRUCT_ITEMS}.",
    ):
        assert text in proto
