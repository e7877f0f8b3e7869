"""Wire format `basis`: precision, layout of the messages, and errors."""

import contextlib
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from encoder_service.basis_learning import learn_basis
from fovea.errors import CheckpointMismatch, InvalidRequest
from fovea.v1 import tensor_pb2
from fovea.wire import basis_codec, basis_file, rans, tensors
from fovea.wire.basis import WireBasis, step_size
from fovea.wire.basis_file import BasisError
from fovea.wire.cosine_transform import cosines

CAP = 1 << 24
ROWS, CHANNELS = 20, 12
GOLDEN = Path(__file__).parents[3] / "golden" / "wire" / "basis"


def images(count: int, seed: int = 0) -> list[np.ndarray]:
    """Tokens whose channels go together, and neighbours too."""
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).standard_normal((CHANNELS, CHANNELS)) * 2.0 ** -np.arange(CHANNELS)[:, None]
    made = []
    for _ in range(count):
        walk = np.cumsum(random.standard_normal((ROWS, CHANNELS)), axis=0)
        made.append((3 + (walk + random.standard_normal((ROWS, CHANNELS))) @ mixing).astype(np.float32))
    return made


FILE = learn_basis(images(60))
BASIS = basis_file.from_bytes(FILE)


def wire(array: np.ndarray, step: int | None = None) -> tensor_pb2.Tensor:
    return tensors.to_message(array, tensor_pb2.DTYPE_BASIS, basis=BASIS, step=step)


def back(message: tensor_pb2.Tensor) -> np.ndarray:
    return tensors.from_message(message, max_bytes=CAP, basis=BASIS)


def coefficients(array: np.ndarray) -> np.ndarray:
    """Of differences of tokens."""
    found = array.astype(np.float64) @ BASIS.analysis
    return cosines(len(array)) @ found if len(array) == ROWS else found


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 30), st.just(CHANNELS)), elements=st.floats(-1000, 1000, width=32)),
    st.integers(BASIS.finest, BASIS.coarsest),
)
def test_whatever_is_sent_no_coefficient_is_off_by_more_than_three_steps(array: np.ndarray, step: int) -> None:
    error = np.abs(coefficients(back(wire(array, step)) - array))
    rounding = 1e-4 * (np.abs(array).max() + 1) * np.abs(BASIS.analysis).sum()
    assert error.max() <= 3 * step_size(step) + rounding


@pytest.mark.parametrize("rows", [ROWS, 7])
def test_a_finer_step_is_nearer_and_takes_more(rows: int) -> None:
    array = images(1, seed=5)[0][:rows]
    sizes, errors = [], []
    for step in (BASIS.coarsest, BASIS.step, BASIS.step - 8, BASIS.finest):
        message = wire(array, step)
        sizes.append(len(message.data))
        errors.append(float(np.square(back(message) - array).mean()))
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3 * errors[1]


def test_it_takes_fewer_bytes_than_entropy_with_the_same_noise() -> None:
    ours = theirs = 0
    for array in images(20, seed=6):
        entropy = tensors.to_message(array, tensor_pb2.DTYPE_ENTROPY)
        noise = np.square(tensors.from_message(entropy, max_bytes=CAP) - array).mean()
        fine = next(
            message
            for step in range(BASIS.coarsest, BASIS.finest, -1)
            if np.square(back(message := wire(array, step)) - array).mean() <= noise
        )
        ours, theirs = ours + len(fine.data), theirs + len(entropy.data)
    assert ours < 0.8 * theirs


@pytest.mark.parametrize("rows", [ROWS, 7])
def test_expected_bytes_are_close(rows: int) -> None:
    fresh = [array[:rows] for array in images(40, seed=7)]
    for step in (BASIS.step - 8, BASIS.step, BASIS.step + 4):
        mean = np.mean([len(wire(array, step).data) for array in fresh])
        assert basis_codec.expected_bytes(rows, BASIS, step) == pytest.approx(mean, rel=0.15)
    for budget in (100, 200, 400):
        step = basis_codec.finest_step(fresh[:2], BASIS, budget)
        took = sum(len(wire(array, step).data) for array in fresh[:2])
        assert took <= 1.05 * budget
        assert step == BASIS.finest or sum(len(wire(array, step - 1).data) for array in fresh[:2]) > 0.95 * budget


def test_images_unlike_the_calibration_images_survive() -> None:
    array = 1000 * np.random.default_rng(8).standard_normal((ROWS, CHANNELS)).astype(np.float32)
    np.testing.assert_allclose(back(wire(array)), array, atol=20 * step_size(BASIS.step))


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_values_too_large_for_a_code_are_refused_at_the_sender(value: float) -> None:
    array = np.ones((2, CHANNELS), np.float32)
    array[1, 3] = value
    with pytest.raises(InvalidRequest, match=r"not finite|too large"):
        wire(array)


def test_other_channels_and_no_basis_are_refused_at_the_sender() -> None:
    with pytest.raises(InvalidRequest, match="5 channels; the wire basis has 12"):
        wire(np.ones((2, 5), np.float32))
    with pytest.raises(InvalidRequest, match="none is loaded"):
        tensors.to_message(np.ones((2, CHANNELS), np.float32), tensor_pb2.DTYPE_BASIS)


# --- golden messages, read with the generated classes, numpy and the file's arrays alone, as docs/wire.md says.


def read_by_the_book(message: tensor_pb2.Tensor, file: bytes) -> np.ndarray:
    arrays = safetensors.numpy.load(file)
    rows, channels = message.shape
    version, step, reserved, _, num_exceptions = struct.unpack_from("<Bb2s8sI", message.data)
    assert (version, reserved) == (1, b"\0\0")
    at = 16
    exceptions = [struct.unpack_from("<Ii", message.data, at + 8 * i) for i in range(num_exceptions)]
    at += 8 * num_exceptions
    is_whole = rows == len(arrays["together"])
    levels = arrays["together"] if is_whole else np.tile(arrays["alone"], (rows, 1))
    places = [(r, c) for r in range(rows) for c in range(channels) if int(levels[r, c]) - step >= -6]
    classes = [int(levels[r, c]) - step for r, c in places]
    low_bits = [max(0, -(-(k - 8) // 4)) for k in classes]
    bits = "".join(f"{byte:08b}" for byte in message.data[at : at + -(-sum(low_bits) // 8)])
    at += len(bits) // 8
    low = [0] * len(places)
    for plane in range(max(low_bits, default=0)):
        for i, count in enumerate(low_bits):
            if count > plane:
                low[i] |= int(bits[0]) << plane
                bits = bits[1:]
    assert not bits.strip("0")
    num_states = 1
    while 512 * num_states < len(places):
        num_states *= 2
    states = list(struct.unpack_from(f"<{num_states}I", message.data, at))
    words = iter(
        struct.unpack_from(f"<{(len(message.data) - at) // 2 - 2 * num_states}H", message.data, at + 4 * num_states)
    )
    codes = np.zeros((rows, channels), np.int64)
    for i, (place, k, b) in enumerate(zip(places, classes, low_bits, strict=True)):
        frequencies = arrays["frequencies"][k - 4 * b + 6].astype(int)
        state = states[i % num_states]
        slot = state % 2**14
        symbol, start = 0, 0
        while slot >= start + frequencies[symbol]:
            start += frequencies[symbol]
            symbol += 1
        state = frequencies[symbol] * (state // 2**14) + slot - start
        states[i % num_states] = state * 2**16 + next(words) if state < 2**16 else state
        codes[place] = (symbol - 24) * 2**b + low[i] - 2**b // 2
    assert set(states) == {2**16}
    assert next(words, None) is None
    for index, code in exceptions:
        codes[index // channels, index % channels] = code
    x = codes * 2.0 ** (step / 4)
    if is_whole:
        k = np.arange(rows)
        weight = np.where(k == 0, np.sqrt(1 / rows), np.sqrt(2 / rows))
        x = np.array([(x.T * weight * np.cos(np.pi * k * (r + 0.5) / rows)).sum(axis=1) for r in range(rows)])
    return x @ arrays["synthesis"] + arrays["mean"]


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.pb")), ids=lambda path: path.stem)
def test_golden_messages_are_read_as_documented_and_written_again(path: Path) -> None:
    message = tensor_pb2.Tensor.FromString(path.read_bytes())
    file = (GOLDEN / "wire.basis").read_bytes()
    basis = basis_file.from_bytes(file)
    expected = np.load(GOLDEN / "values.npz")[path.stem]
    np.testing.assert_allclose(read_by_the_book(message, file), expected, rtol=1e-4, atol=1e-4)
    for coder in rans.available_coders():
        with rans.using_coder(coder):
            got = tensors.from_message(message, max_bytes=CAP, basis=basis)
            step = struct.unpack_from("<Bb", message.data)[1]
            again = tensors.to_message(expected, tensor_pb2.DTYPE_BASIS, basis=basis, step=step)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
        assert again == message


def test_there_are_golden_messages_of_all_that_a_body_may_hold() -> None:
    assert {path.stem for path in GOLDEN.glob("*.pb")} == {"alone", "together", "exceptions"}
    exceptions = tensor_pb2.Tensor.FromString((GOLDEN / "exceptions.pb").read_bytes())
    assert struct.unpack_from("<I", exceptions.data, 12)[0] > 0


# --- hostile bodies and files


def body(
    *,
    step: int = BASIS.step,
    version: int = 1,
    reserved: bytes = bytes(2),
    digest: bytes = BASIS.digest,
    exceptions: tuple[tuple[int, int], ...] = (),
    count: int | None = None,
    cut: int = 0,
    more: bytes = b"",
) -> tensor_pb2.Tensor:
    """Two tokens of zeros, and what is wrong with them."""
    good = wire(np.tile(BASIS.mean, (2, 1)), step if BASIS.finest <= step <= BASIS.coarsest else BASIS.step)
    num_exceptions = len(exceptions) if count is None else count
    data = struct.pack("<Bb2s8sI", version, step, reserved, digest, num_exceptions)
    data += b"".join(struct.pack("<Ii", *one) for one in exceptions)
    data += good.data[16 : len(good.data) - cut] + more
    return tensor_pb2.Tensor(dtype=tensor_pb2.DTYPE_BASIS, shape=[2, CHANNELS], data=data, crc32=zlib.crc32(data))


def test_the_body_that_the_hostile_ones_are_made_of_is_fine() -> None:
    np.testing.assert_allclose(back(body()), np.tile(BASIS.mean, (2, 1)), atol=1e-6)
    assert np.abs(back(body(exceptions=((0, 5),))) - BASIS.mean).max() > 0.1


HOSTILE = {
    "reserved": (body(reserved=b"\0\1"), "reserved 0001"),
    "too fine": (body(step=BASIS.finest - 1), "step"),
    "too coarse": (body(step=BASIS.coarsest + 1), "step"),
    "exception outside": (body(exceptions=((2 * CHANNELS, 1),)), "exceptions do not name codes below 24"),
    "exception twice": (body(exceptions=((3, 1), (3, 1))), "ascending"),
    "exceptions missing": (body(count=2**32 - 1), "ends before its codes"),
    "huge exception": (body(step=BASIS.coarsest, exceptions=((0, 2**31 - 1),)), None),
    "stream cut": (body(cut=2), "stream"),
    "stream and more": (body(more=b"\0\0"), "not exactly"),
    "no header": (
        tensor_pb2.Tensor(dtype=tensor_pb2.DTYPE_BASIS, shape=[1, CHANNELS], data=b"\1", crc32=zlib.crc32(b"\1")),
        "header of 16",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_is_refused_with_the_reason(name: str) -> None:
    message, says = HOSTILE[name]
    if says is None:  # strange, but numbers
        assert np.isfinite(back(message)).all()
        return
    with pytest.raises(InvalidRequest, match=says):
        back(message)


def test_a_basis_that_the_receiver_does_not_have_is_the_services_defect_not_the_callers() -> None:
    with pytest.raises(CheckpointMismatch, match="has none loaded"):
        tensors.from_message(body(), max_bytes=CAP)
    with pytest.raises(CheckpointMismatch, match="0000000000000000, this service has " + BASIS.digest.hex()):
        back(body(digest=bytes(8)))


def test_a_version_that_is_not_known_is_the_services_defect_not_the_callers() -> None:
    with pytest.raises(CheckpointMismatch, match="version 2 of dtype basis, this service knows 1"):
        back(body(version=2))


def test_other_channels_are_refused_at_the_receiver() -> None:
    message = body()
    message.shape[:] = [CHANNELS, 2]
    with pytest.raises(InvalidRequest, match="2 channels; the wire basis has 12"):
        back(message)


def test_low_bits_after_the_last_are_zero() -> None:
    array = images(1, seed=9)[0][:1]
    message = wire(array, BASIS.finest)
    levels = BASIS.token_levels - BASIS.finest
    count = int(np.maximum(0, -((8 - levels[levels >= -6]) // 4)).sum())
    assert count % 8  # otherwise there is nothing to spoil
    at = 16 + 8 * struct.unpack_from("<I", message.data, 12)[0] + count // 8
    data = message.data[:at] + bytes([message.data[at] | 1]) + message.data[at + 1 :]
    with pytest.raises(InvalidRequest, match="after the last low bit"):
        back(tensor_pb2.Tensor(dtype=message.dtype, shape=message.shape, data=data, crc32=zlib.crc32(data)))


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(1, 30), st.integers(-12, 40))
def test_any_bytes_are_read_or_refused(data: bytes, rows: int, step: int) -> None:
    data = struct.pack("<Bb2s8s", 1, step, bytes(2), BASIS.digest) + data
    message = tensor_pb2.Tensor(dtype=tensor_pb2.DTYPE_BASIS, shape=[rows, CHANNELS], data=data, crc32=zlib.crc32(data))
    with contextlib.suppress(InvalidRequest):
        assert np.isfinite(back(message)).all()


def test_a_file_that_is_no_basis_is_refused(tmp_path: Path) -> None:
    good = safetensors.numpy.load(FILE)

    def changed(**arrays: np.ndarray) -> bytes:
        return safetensors.numpy.save({**good, **arrays})

    nan = good["mean"].copy()
    nan[0] = np.nan
    for data, says in (
        (b"", "safetensors"),
        (b"\xff" * 100, "safetensors"),
        (FILE[:-1], "safetensors"),
        (safetensors.numpy.save({"mean": good["mean"]}), "holds mean, synthesis"),
        (changed(step=np.zeros(1, np.int16)), "holds mean, synthesis"),
        (changed(alone=np.zeros(3, np.int8)), "wrong shapes: alone"),
        (changed(mean=nan), "NaN"),
        (changed(synthesis=np.zeros_like(good["synthesis"])), "cannot be inverted"),
        (changed(frequencies=good["frequencies"] // 2), "sum up"),
        (changed(step=np.array([-128], np.int8)), "step"),
    ):
        with pytest.raises(BasisError, match=says):
            basis_file.from_bytes(data)
    with pytest.raises(BasisError, match=r"'none.basis' cannot be read"):
        basis_file.load(tmp_path / "none.basis")


def test_a_service_finds_the_file_that_is_named_or_lies_beside_the_weights(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    model = str(tmp_path / "model")
    assert basis_file.find("", model, None, CHANNELS) is None
    (tmp_path / "model" / basis_file.FILE).write_bytes(FILE)
    beside = basis_file.find("", model, None, CHANNELS)
    assert isinstance(beside, WireBasis)
    assert beside.digest == BASIS.digest
    (tmp_path / "other").write_bytes(learn_basis(images(60, seed=1)))
    named = basis_file.find(str(tmp_path / "other"), model, None, CHANNELS)
    assert named is not None
    assert named.digest != BASIS.digest
    with pytest.raises(BasisError, match="12 channels, visual tokens of this model have 32"):
        basis_file.find("", model, None, 32)
