import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fovea.errors import InvalidRequest
from fovea.wire import rans

TABLES = rans.FrequencyTables(
    np.array([[rans.TOTAL - 2, 1, 1], [rans.TOTAL // 2, rans.TOTAL // 4, rans.TOTAL // 4], [1, 2, rans.TOTAL - 3]])
)


def drawn(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Symbols as frequent as their tables say, and the tables."""
    random = np.random.default_rng(seed)
    table = random.integers(0, 3, count)
    slots = random.integers(0, rans.TOTAL, count)
    return TABLES.symbols.reshape(3, -1)[table, slots], table


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=2000))
def test_symbols_come_back_however_rare_they_are(pairs: list[tuple[int, int]]) -> None:
    symbols, table = np.array(pairs, np.int64).reshape(-1, 2).T
    assert rans.decode(rans.encode(symbols, table, TABLES), table, TABLES).tolist() == symbols.tolist()


@pytest.mark.parametrize("count", [1, 512, 513, 6000, 50_000])
def test_a_stream_is_as_long_as_its_tables_say_and_half_its_states(count: int) -> None:
    symbols, table = drawn(count)
    length = len(rans.encode(symbols, table, TABLES))
    ideal = TABLES.bits[table, symbols].sum() / 8
    assert ideal < length <= 1.01 * ideal + 4 * rans.num_states(count)
    assert count / rans.num_states(count) <= 512


def test_a_stream_that_is_not_whole_is_refused() -> None:
    symbols, table = drawn(3000)
    data = rans.encode(symbols, table, TABLES)
    for wrong in (b"", data[:10], data[:-1], data[:-2], data + b"\0\0", bytes(4) + data[4:]):
        with pytest.raises(InvalidRequest, match=r"stream"):
            rans.decode(wrong, table, TABLES)


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 600))
def test_any_stream_is_read_or_refused(data: bytes, count: int) -> None:
    with contextlib.suppress(InvalidRequest):
        assert len(rans.decode(data, drawn(count)[1], TABLES)) == count
