import contextlib
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fovea.errors import CheckpointMismatch, InvalidRequest
from fovea.v1 import tensor_pb2
from fovea.wire import integer_codec, tensors
from fovea.wire.quantized import INT4, INT8, Quantized, Scheme, all_finite

CAP = 1 << 24
GOLDEN = Path(__file__).parents[3] / "golden" / "wire"
INTEGER = ("int8", "int4", "entropy")
WITHOUT_BASIS = [name for name in tensors.DTYPES if name != "basis"]

arrays = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 120), st.integers(1, 150)),
    elements=st.floats(-10_000, 10_000, width=32),
)


def wire(array: np.ndarray, name: str, **options: object) -> tensor_pb2.Tensor:
    return tensors.to_message(array, tensors.parse_dtype(name), **options)  # type: ignore[arg-type]


def back(message: tensor_pb2.Tensor) -> np.ndarray:
    return tensors.from_message(message, max_bytes=CAP)


def tokens(rows: int = 64, channels: int = 1024, seed: int = 0) -> np.ndarray:
    """Something like features: unequal channels, and a few values of each row far outside."""
    random = np.random.default_rng(seed)
    array = random.standard_normal((rows, channels)) * random.lognormal(0, 0.4, channels)
    array[:, channels // 3] *= 40
    return array.astype(np.float32)


@pytest.mark.parametrize("packing", ["packed", "shorter"])
@settings(deadline=None, max_examples=60)
@given(array=arrays)
def test_int8_is_within_half_a_step_of_each_token(packing: str, array: np.ndarray) -> None:
    largest = np.abs(array).max(axis=1, keepdims=True)
    got = back(wire(array, "int8", packing=packing))
    assert (np.abs(got - array) <= largest * (0.5 / 127) * 1.01 + 1e-6).all()


@pytest.mark.parametrize("packing", ["packed", "shorter"])
@settings(deadline=None, max_examples=60)
@given(array=arrays)
def test_int4_is_within_half_a_step_of_each_token_and_group(packing: str, array: np.ndarray) -> None:
    got = back(wire(array, "int4", packing=packing))
    for start in range(0, array.shape[1], 64):
        group = array[:, start : start + 64]
        # With a mean the codes are of what remains, which is at most the spread; both roundings are to float16.
        reach = np.maximum(np.abs(group).max(axis=1, keepdims=True), np.abs(group - group.mean(axis=0)).max())
        error = np.abs(got[:, start : start + 64] - group)
        assert (error <= reach * (0.5 / 7) * 1.02 + np.abs(group) / 1024 + 1e-5).all()


@settings(deadline=None, max_examples=60)
@given(array=arrays)
def test_entropy_is_within_half_its_step(array: np.ndarray) -> None:
    error = np.abs(back(wire(array, "entropy")) - array)
    spread = np.abs(array - (array.mean(axis=0) if len(array) >= 96 else 0))
    if len(array) < 96:
        step = max(0.75 * np.sqrt(np.mean(np.square(spread, dtype=np.float64))), spread.max() / 127)
    else:  # transformed: a coefficient is at most the length of its channel, and errors are bounded in the mean
        lengths = np.sqrt(np.square(spread, dtype=np.float64).sum(axis=0))
        step = max(0.75 * np.sqrt(np.mean(np.square(spread, dtype=np.float64))), lengths.max() / 127)
        error = np.sqrt(np.mean(np.square(error, dtype=np.float64), axis=0))
    assert error.max() <= 0.5 * step * 1.01 + np.abs(array).max() / 512 + 1e-5


@pytest.mark.parametrize("name", INTEGER)
def test_coding_the_codes_changes_no_value(name: str) -> None:
    array = tokens()
    short, plain = wire(array, name), wire(array, name, packing="packed")
    assert short.ByteSize() < plain.ByteSize()
    np.testing.assert_array_equal(back(short), back(plain))


def test_sizes_of_64_tokens_of_1024_channels() -> None:
    size = {name: wire(tokens(), name, packing="packed").ByteSize() for name in WITHOUT_BASIS}
    assert size["int4"] <= 36 * 1024
    assert size["int8"] <= 65 * 1024
    assert size["float16"] <= 129 * 1024


@pytest.mark.parametrize("name", WITHOUT_BASIS)
@pytest.mark.parametrize("shape", [(1, 128), (16, 128), (144, 128), (64, 1024), (576, 1024), (7, 65)])
def test_expected_bytes_are_an_upper_limit_or_close(name: str, shape: tuple[int, int]) -> None:
    normal = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    for array in (normal, tokens(*shape)):
        assert len(wire(array, name).data) <= tensors.data_bytes(*shape, tensors.parse_dtype(name))


def test_an_outlier_does_not_affect_its_neighbours_in_int4() -> None:
    quiet = np.random.default_rng(2).uniform(-1, 1, (4, 256)).astype(np.float32)
    outlier = quiet.copy()
    outlier[:, 5] = 1000.0
    got = back(wire(outlier, "int4"))
    assert (got[:, 5] == 1000).all()
    assert np.abs(np.delete(got - outlier, 5, axis=1)).max() < 0.08


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_a_token_does_not_depend_on_the_other_tokens(name: str) -> None:
    array = tokens(8, 128)
    np.testing.assert_array_equal(back(wire(array, name))[2:5], back(wire(array[2:5], name)))


@pytest.mark.parametrize("name", INTEGER)
def test_all_zeros_and_constants_survive(name: str) -> None:
    zeros = np.zeros((3, 70), np.float32)
    np.testing.assert_array_equal(back(wire(zeros, name)), zeros)
    ones = np.ones((100, 70), np.float32)
    np.testing.assert_allclose(back(wire(ones, name)), ones, rtol=0.6 if name == "entropy" else 2e-3)


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(65, 600), st.integers(0, 2**32 - 1))
def test_of_equal_values_the_lowest_channels_are_the_outliers_of_int4(rows: int, columns: int, seed: int) -> None:
    array = np.random.default_rng(seed).integers(-3, 3, (rows, columns), endpoint=True).astype(np.float32)
    count = max(1, array.shape[1] // 256)
    order = np.argsort(-np.abs(array), axis=1, kind="stable")[:, :count]
    got = integer_codec.quantize(array, INT4)
    np.testing.assert_array_equal(got.outlier_channels, np.sort(order, axis=1))


@pytest.mark.parametrize("scheme", [INT8, INT4])
def test_tokens_that_are_joined_and_reordered_are_written_as_if_quantized_together(scheme: Scheme) -> None:
    array, order = tokens(9, 200), np.random.default_rng(5).permutation(9)
    parts = [integer_codec.quantize(part, scheme) for part in np.split(array, [2, 3])]
    assert Quantized.joined(parts)[order].write() == integer_codec.quantize(array[order], scheme).write()
    assert Quantized.joined(parts)[2:3].write() == parts[1].write()


@pytest.mark.parametrize("name", INTEGER)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_values_too_large_for_the_scales_are_refused_at_the_sender(name: str, value: float) -> None:
    array = np.ones((2, 70), np.float32)
    array[1, 3] = value
    with pytest.raises(InvalidRequest, match=r"not finite|too large"):
        wire(array, name)


def test_every_float16_is_told_finite_or_not() -> None:
    for value in np.arange(2**16, dtype=np.uint16).view(np.float16).reshape(-1, 1):
        assert all_finite(value) == np.isfinite(value[0])
    assert all_finite(np.empty((3, 0), np.float16))


# --- golden messages, read with the generated classes and numpy alone, as docs/wire.md and tensor.proto say.


def read_by_the_book(message: tensor_pb2.Tensor) -> np.ndarray:
    assert zlib.crc32(message.data) == message.crc32
    *outer, channels = message.shape
    rows = int(np.prod(outer))
    version, coding, flags, reserved, group, num_outliers = struct.unpack_from("<BBBBHH", message.data)
    assert (version, reserved) == (1, 0)
    at = 8

    def take(dtype: str, count: int) -> np.ndarray:
        nonlocal at
        part = np.frombuffer(message.data, dtype, count, at)
        at += part.nbytes
        return part

    mean = take("<f2", channels) if flags & 1 else np.zeros(channels)
    num_groups = -(-channels // group) if group else 1
    scales = take("<f2", rows * num_groups) if group else np.repeat(take("<f2", 1), rows)
    where, exact = take("<u2", rows * num_outliers), take("<f2", rows * num_outliers)
    codes = message.data[at:]
    if coding == 1:
        q = np.frombuffer(zlib.decompress(codes, -15), np.int8)
    elif message.dtype == tensor_pb2.DTYPE_INT4:
        q = np.array([((byte >> shift & 15) ^ 8) - 8 for byte in codes for shift in (0, 4)])
    else:
        q = np.frombuffer(codes, np.int8)
    x = np.empty((rows, channels))
    for r in range(rows):
        for c in range(channels):
            x[r, c] = float(scales[r * num_groups + (c // group if group else 0)]) * float(q[r * channels + c])
    if flags & 2:
        k = np.arange(rows)
        weight = np.where(k == 0, np.sqrt(1 / rows), np.sqrt(2 / rows))
        x = np.array([(x.T * weight * np.cos(np.pi * k * (r + 0.5) / rows)).sum(axis=1) for r in range(rows)])
    values = x + mean
    for r in range(rows):
        for i in range(num_outliers):
            values[r, where[r * num_outliers + i]] = exact[r * num_outliers + i]
    return values.reshape(tuple(message.shape))


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.pb")), ids=lambda path: path.stem)
def test_golden_messages_are_read_as_documented(path: Path) -> None:
    message = tensor_pb2.Tensor.FromString(path.read_bytes())
    expected = np.load(GOLDEN / "values.npz")[path.stem]
    np.testing.assert_allclose(read_by_the_book(message), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(back(message), expected, rtol=1e-5, atol=1e-5)


def test_there_is_a_golden_message_of_each_layout() -> None:
    seen = set()
    for path in GOLDEN.glob("*.pb"):
        message = tensor_pb2.Tensor.FromString(path.read_bytes())
        seen.add((message.dtype, message.data[1], message.data[2]))
    assert {dtype for dtype, _, _ in seen} == {tensors.DTYPES[name] for name in INTEGER}
    assert {(coding, flags) for _, coding, flags in seen} >= {(0, 0), (1, 0), (1, 1), (1, 3)}


# --- hostile bodies


def body(
    *,
    rows: int = 2,
    channels: int = 3,
    version: int = 1,
    coding: int = 0,
    flags: int = 0,
    reserved: int = 0,
    group: int = 3,
    outliers: int = 0,
    floats: list[float] | None = None,
    indices: list[int] | None = None,
    values: list[float] | None = None,
    codes: bytes = b"\1\2\3\4\5\6",
) -> tensor_pb2.Tensor:
    data = struct.pack("<BBBBHH", version, coding, flags, reserved, group, outliers)
    data += np.array([1.0, 1.0] if floats is None else floats, "<f2").tobytes()
    data += np.array(indices or [], "<u2").tobytes() + np.array(values or [], "<f2").tobytes() + codes
    return tensor_pb2.Tensor(dtype=tensor_pb2.DTYPE_INT8, shape=[rows, channels], data=data, crc32=zlib.crc32(data))


def raw_deflate(data: bytes) -> bytes:
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    return coder.compress(data) + coder.flush()


def test_the_body_that_the_hostile_ones_are_made_of_is_fine() -> None:
    assert back(body()).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert back(body(coding=1, codes=raw_deflate(b"\1\2\3\4\5\6"))).tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("group", [0, 1, 7, 1024])
def test_a_few_deflated_bytes_take_little_more_memory_than_their_values(group: int) -> None:
    """As many values as the shape says are decoded in place: 4 bytes each, one more for the code, and a check."""
    rows, channels = 2000, 1024
    num_scales = rows * -(-channels // group) if group else 1
    codes = raw_deflate(bytes([1]) * (rows * channels))
    message = body(rows=rows, channels=channels, coding=1, group=group, floats=[1.0] * num_scales, codes=codes)
    tracemalloc.start()
    array = back(message)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (array == 1).all()
    assert peak < 1.5 * array.nbytes + 4 * num_scales + 2**22


HOSTILE = {
    "coding": (body(coding=2), "coding 2"),
    "flags": (body(flags=4), "flags 4"),
    "too many tokens to transform": (
        body(rows=1025, channels=1, group=0, flags=2, floats=[1.0], codes=bytes(1025)),
        "1025 tokens are more than the 1024",
    ),
    "reserved": (body(reserved=1), "reserved 1"),
    "group wider than the row": (body(group=4), "do not fit 3 channels"),
    "more outliers than channels": (body(outliers=4), "do not fit 3 channels"),
    "no scales": (body(floats=[], codes=b""), "ends before its scales"),
    "codes missing": (body(codes=b"\1"), "take 6 bytes, not 1"),
    "codes too many": (body(codes=bytes(7)), "take 6 bytes, not 7"),
    "code -128": (body(codes=b"\x80" + bytes(5)), "outside -127 to 127"),
    "scale NaN": (body(floats=[1, np.nan]), "NaN"),
    "scale infinite": (body(floats=[1, np.inf]), "infinity"),
    "scale negative": (body(floats=[1, -1]), "negative"),
    "mean NaN": (body(flags=1, floats=[0, np.nan, 0, 1, 1]), "NaN"),
    "outlier infinite": (body(outliers=1, indices=[0, 1], values=[1, np.inf]), "infinity"),
    "outlier outside": (body(outliers=1, indices=[0, 3], values=[1, 1]), "outliers do not name"),
    "outlier twice": (body(outliers=2, indices=[0, 1, 2, 2], values=[1, 1, 1, 1]), "ascending"),
    "deflate garbage": (body(coding=1, codes=b"\xff\xff\xff"), "cannot be read"),
    "deflate cut": (body(coding=1, codes=raw_deflate(bytes(6))[:-2]), "not exactly the 6"),
    "deflate short": (body(coding=1, codes=raw_deflate(bytes(5))), "not exactly the 6"),
    "deflate bomb": (body(coding=1, codes=raw_deflate(bytes(50_000_000))), "not exactly the 6"),
    "deflate and more": (body(coding=1, codes=raw_deflate(bytes(6)) + b"x"), "not exactly the 6"),
    "no header": (tensor_pb2.Tensor(dtype=4, shape=[1, 1], data=b"\1", crc32=zlib.crc32(b"\1")), "header of 8"),
    "4 GiB shape": (body(rows=2**31, channels=2), "takes more than"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_is_refused_with_the_reason(name: str) -> None:
    message, says = HOSTILE[name]
    with pytest.raises(InvalidRequest, match=says):
        back(message)


def test_a_half_byte_after_the_last_code_is_refused() -> None:
    message = wire(np.ones((1, 3), np.float32), "int4", packing="packed")
    data = message.data[:-1] + bytes([message.data[-1] | 0xF0])
    with pytest.raises(InvalidRequest, match="half byte"):
        back(tensor_pb2.Tensor(dtype=message.dtype, shape=[1, 3], data=data, crc32=zlib.crc32(data)))


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from(INTEGER), st.integers(1, 9), st.integers(1, 9))
def test_any_bytes_are_read_or_refused(data: bytes, name: str, rows: int, channels: int) -> None:
    dtype = tensors.parse_dtype(name)
    message = tensor_pb2.Tensor(dtype=dtype, shape=[rows, channels], data=b"\1" + data, crc32=zlib.crc32(b"\1" + data))
    with contextlib.suppress(InvalidRequest):
        assert np.isfinite(back(message)).all()


def test_a_version_that_is_not_known_is_the_services_defect_not_the_callers() -> None:
    with pytest.raises(CheckpointMismatch, match="version 2 of the integer wire formats, this service knows 1"):
        back(body(version=2))
