"""Visual tokens converted to a wire format on the device are those that the numpy codec writes, byte for byte."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from encoder_service.engine.wire_values import DeviceFormat, convert, is_finite, token_values
from fovea.errors import InvalidRequest
from fovea.wire import tensors
from fovea.wire.quantized import INT4, Quantized
from fovea.wire.tensors import Float32Array
from tests.dispatched_operations import operations_of

FORMATS: tuple[DeviceFormat, ...] = ("float16", "int8", "int4")
OPERATIONS: dict[tuple[DeviceFormat, bool], int] = {
    ("float32", False): 1,
    ("float16", False): 1,
    ("int8", False): 15,
    ("int4", False): 27,
    ("int4", True): 33,
}
"""Number of operations by wire format and whether the mean is sent, if the last group of channels is not full."""

any_shape = st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 140))


def has_mean(wire_format: DeviceFormat, num_tokens: int) -> bool:
    return wire_format == "int4" and INT4.has_mean(num_tokens)


def check_each_message(batch: Float32Array, wire_format: DeviceFormat) -> None:
    """Compares the message of each row of a batch [B, K, C] with that of the numpy codec."""
    _, num_tokens, channels = batch.shape
    converted = convert(torch.from_numpy(batch), wire_format, has_mean=has_mean(wire_format, num_tokens))
    for i, features in enumerate(batch):
        arrays = {name: tensor[i].numpy() for name, tensor in converted.items()}
        values = token_values(arrays, wire_format, channels)
        assert len(values) == num_tokens
        try:
            want = tensors.to_message(features, tensors.parse_dtype(wire_format))
        except InvalidRequest:
            assert not is_finite(values)
            continue
        assert is_finite(values)
        assert isinstance(values, Quantized) or values.dtype == np.float16
        assert tensors.converted_message(values) == want


@pytest.mark.parametrize("wire_format", FORMATS)
@settings(deadline=None)
@given(hnp.arrays(np.float32, any_shape, elements=st.floats(-(2.0**18), 2.0**18, width=32)))
def test_features_are_written_as_by_numpy(wire_format: DeviceFormat, batch: Float32Array) -> None:
    check_each_message(batch, wire_format)


@pytest.mark.parametrize("wire_format", FORMATS)
@settings(deadline=None)
@given(hnp.arrays(np.float32, any_shape, elements=st.floats(allow_nan=False, allow_infinity=False, width=32)))
def test_huge_and_tiny_features_are_written_or_refused_as_by_numpy(
    wire_format: DeviceFormat, batch: Float32Array
) -> None:
    check_each_message(batch, wire_format)


@pytest.mark.parametrize("wire_format", FORMATS)
@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 2), st.sampled_from([1, 95, 96, 130]), st.sampled_from([1, 32, 64, 65, 300, 1024])),
    kind=st.sampled_from(["zero", "constant", "ties", "multiples", "half", "normal", "huge", "tiny"]),
    seed=st.integers(0, 2**20),
)
def test_few_and_many_tokens_are_written_as_by_numpy(
    wire_format: DeviceFormat, shape: tuple[int, int, int], kind: str, seed: int
) -> None:
    random = np.random.default_rng(seed)
    normal = random.standard_normal(shape)
    batch = {
        "zero": np.zeros(shape),
        "constant": np.full(shape, random.standard_normal()),
        "ties": random.integers(-3, 4, shape),
        # scales that are exact in float16, and codes that end in .5
        "multiples": 2.0 ** random.integers(-14, 4) * random.choice([-127, 127, 7, 3.5, 0.5, 1.5], shape),
        "half": normal.astype(np.float16),
        "normal": normal,
        "huge": normal * 2.0 ** random.integers(14, 24),
        "tiny": normal * 2.0 ** random.integers(-40, -14),
    }[kind].astype(np.float32)
    check_each_message(batch, wire_format)


@pytest.mark.parametrize("wire_format", FORMATS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("num_tokens", [1, 100])
def test_a_value_that_cannot_be_written_is_seen_in_its_message_alone(
    wire_format: DeviceFormat, value: float, num_tokens: int
) -> None:
    batch = np.random.default_rng(1).standard_normal((3, num_tokens, 300)).astype(np.float32)
    batch[1, -1, 7] = value
    converted = convert(torch.from_numpy(batch), wire_format, has_mean=has_mean(wire_format, num_tokens))
    for i, is_good in enumerate((True, False, True)):
        arrays = {name: tensor[i].numpy() for name, tensor in converted.items()}
        assert is_finite(token_values(arrays, wire_format, 300)) == is_good


@pytest.mark.parametrize("wire_format", FORMATS)
def test_features_in_half_precision_are_converted_from_float32(wire_format: DeviceFormat) -> None:
    half = torch.randn(2, 5, 96, generator=torch.Generator().manual_seed(3)).to(torch.bfloat16)
    got, want = convert(half, wire_format), convert(half.float(), wire_format)
    assert got.keys() == want.keys()
    for name, tensor in got.items():
        assert torch.equal(tensor, want[name])


@pytest.mark.parametrize(("wire_format", "with_mean"), OPERATIONS)
def test_no_value_is_read_back_from_the_device(wire_format: DeviceFormat, with_mean: bool) -> None:
    """On the device `meta` tensors have no values, and a read raises."""
    converted = convert(torch.empty(4, 11, 1000, device="meta"), wire_format, has_mean=with_mean)
    assert {tensor.device.type for tensor in converted.values()} == {"meta"}


@pytest.mark.parametrize(("wire_format", "with_mean"), OPERATIONS)
def test_operations_are_few_and_do_not_depend_on_the_batch(wire_format: DeviceFormat, with_mean: bool) -> None:
    for size in (1, 32):
        features = torch.zeros(size, 3, 1000)
        operations = operations_of(lambda features=features: convert(features, wire_format, has_mean=with_mean))
        assert len(operations) == OPERATIONS[wire_format, with_mean]


@pytest.mark.parametrize(
    ("wire_format", "num_bytes"),
    [("float32", 262_144), ("float16", 131_072), ("int8", 65_664), ("int4", 68_608)],
)
def test_bytes_of_64_tokens_of_1024_channels(wire_format: DeviceFormat, num_bytes: int) -> None:
    converted = convert(torch.zeros(1, 64, 1024), wire_format)
    assert sum(tensor.numel() * tensor.element_size() for tensor in converted.values()) == num_bytes
