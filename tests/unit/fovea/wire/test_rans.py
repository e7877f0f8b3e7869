"""Streams of rANS: what they hold, what is refused, and that both coders agree."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fovea.errors import InvalidRequest
from fovea.wire import rans
from fovea.wire.rans import native_coder

TABLES = rans.FrequencyTables(
    np.array([[rans.TOTAL - 2, 1, 1], [rans.TOTAL // 2, rans.TOTAL // 4, rans.TOTAL // 4], [1, 2, rans.TOTAL - 3]])
)
each_coder = pytest.mark.parametrize("coder", rans.available_coders())


def drawn(count: int, seed: int = 0, tables: rans.FrequencyTables = TABLES) -> tuple[np.ndarray, np.ndarray]:
    """Symbols as frequent as their tables say, and the tables."""
    random = np.random.default_rng(seed)
    table = random.integers(0, len(tables.frequencies), count)
    slots = random.integers(0, rans.TOTAL, count)
    return tables.symbols.reshape(-1, rans.TOTAL)[table, slots], table


def outcome(coder: str, data: bytes, table: np.ndarray, tables: rans.FrequencyTables = TABLES) -> list[int] | str:
    """Symbols that a coder reads, or the error that it gives."""
    with rans.using_coder(coder):
        try:
            return rans.decode(data, table, tables).tolist()
        except InvalidRequest as error:
            return str(error)


@st.composite
def frequency_tables(draw: st.DrawFn) -> rans.FrequencyTables:
    """Tables of 1 to 256 symbols, from even ones to those with one symbol that is nearly certain."""
    shape = draw(st.sampled_from([(1, 1), (1, 2), (3, 5), (15, 49), (2, 256), (256, 2)]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    shares = random.random(shape) ** draw(st.sampled_from([0, 1, 30]))
    frequencies = 1 + np.floor((rans.TOTAL - shape[1]) * shares / shares.sum(axis=1, keepdims=True)).astype(np.int64)
    frequencies[:, draw(st.integers(0, shape[1] - 1))] += rans.TOTAL - frequencies.sum(axis=1)
    return rans.FrequencyTables(frequencies)


@each_coder
@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=2000))
def test_symbols_come_back_however_rare_they_are(coder: str, pairs: list[tuple[int, int]]) -> None:
    symbols, table = np.array(pairs, np.int64).reshape(-1, 2).T
    with rans.using_coder(coder):
        assert rans.decode(rans.encode(symbols, table, TABLES), table, TABLES).tolist() == symbols.tolist()


@each_coder
@pytest.mark.parametrize("count", [1, 512, 513, 6000, 50_000])
def test_a_stream_is_as_long_as_its_tables_say_and_half_its_states(coder: str, count: int) -> None:
    symbols, table = drawn(count)
    with rans.using_coder(coder):
        length = len(rans.encode(symbols, table, TABLES))
    ideal = TABLES.bits[table, symbols].sum() / 8
    assert ideal < length <= 1.01 * ideal + 4 * rans.num_states(count)
    assert count / rans.num_states(count) <= 512


@settings(deadline=None, max_examples=100)
@given(frequency_tables(), st.integers(0, 3000), st.booleans(), st.integers(0, 2**32))
def test_all_coders_write_the_same_bytes(tables: rans.FrequencyTables, count: int, likely: bool, seed: int) -> None:
    symbols, table = drawn(count, seed, tables)
    if not likely:  # as often the rare symbols, which fill the words
        symbols = np.random.default_rng(seed).integers(0, tables.frequencies.shape[1], count)
    streams = set()
    for coder in rans.available_coders():
        with rans.using_coder(coder):
            streams.add(rans.encode(symbols, table, tables))
    assert len(streams) == 1
    assert {tuple(outcome(coder, *streams, table, tables)) for coder in rans.available_coders()} == {tuple(symbols)}


@each_coder
def test_a_stream_that_is_not_whole_is_refused(coder: str) -> None:
    symbols, table = drawn(3000)
    data = rans.encode(symbols, table, TABLES)
    for wrong in (b"", data[:10], data[:-1], data[:-2], data + b"\0\0", bytes(4) + data[4:]):
        assert "stream" in str(outcome(coder, wrong, table))


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200), st.integers(0, 600), frequency_tables())
def test_any_stream_is_read_or_refused_and_alike_by_all_coders(
    data: bytes, count: int, tables: rans.FrequencyTables
) -> None:
    table = drawn(count, tables=tables)[1]
    numpy, *others = (outcome(coder, data, table, tables) for coder in reversed(rans.available_coders()))
    assert isinstance(numpy, str) or len(numpy) == count
    assert all(other == numpy for other in others)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 1500), st.data())
def test_a_stream_with_a_changed_byte_is_read_alike_by_all_coders(count: int, data: st.DataObject) -> None:
    symbols, table = drawn(count)
    stream = bytearray(rans.encode(symbols, table, TABLES))
    stream[data.draw(st.integers(0, len(stream) - 1))] ^= data.draw(st.integers(1, 255))
    cut = bytes(stream[: data.draw(st.integers(0, len(stream)))])
    for changed in (bytes(stream), cut):
        numpy, *others = (outcome(coder, changed, table) for coder in reversed(rans.available_coders()))
        assert all(other == numpy for other in others)


@each_coder
@pytest.mark.parametrize(("symbol", "index"), [(3, 0), (255, 0), (256, 0), (-1, 0), (0, 3), (0, 256), (0, -1)])
def test_what_is_not_in_the_tables_is_an_error(coder: str, symbol: int, index: int) -> None:
    symbols, table = np.zeros(700, np.int64), np.zeros(700, np.int64)
    symbols[600], table[600] = symbol, index
    with rans.using_coder(coder):
        with pytest.raises(IndexError):
            rans.encode(symbols, table, TABLES)
        if index:
            with pytest.raises(IndexError):
                rans.decode(rans.encode(0 * symbols, 0 * table, TABLES), table, TABLES)
        with pytest.raises(ValueError, match="700 symbols have 699 tables"):
            rans.encode(symbols, table[:-1], TABLES)


@pytest.mark.parametrize(
    "frequencies", [[[rans.TOTAL - 1]], [[rans.TOTAL, 0]], [[rans.TOTAL + 1, -1]], [rans.TOTAL], [[64] * 257]]
)
def test_frequencies_that_are_no_tables_are_refused(frequencies: list[object]) -> None:
    with pytest.raises(ValueError, match="frequenc"):
        rans.FrequencyTables(np.array(frequencies))


@pytest.mark.skipif(not (shutil.which("cc") or shutil.which("gcc")), reason="no C compiler, which the library needs")
def test_the_installation_has_the_native_coder_and_uses_it() -> None:
    assert rans.available_coders() == ["native", "numpy"], "make install builds fovea/wire/rans/librans.so"
    assert rans.coder_name() == "native"


def test_a_library_of_another_machine_is_not_used(tmp_path: Path) -> None:
    assert native_coder.load_library(tmp_path) is None
    (tmp_path / "librans.so").write_bytes(b"\x7fELF of another machine")
    assert native_coder.load_library(tmp_path) is None


def test_another_coder_is_used_only_within_its_context() -> None:
    before = rans.coder_name()
    with pytest.raises(KeyError), rans.using_coder("assembler"):
        pass
    with rans.using_coder("numpy"):
        assert rans.coder_name() == "numpy"
    assert rans.coder_name() == before
