"""Entropy coding with fixed tables: range asymmetric numeral systems (rANS, Duda 2014) with L interleaved states.

Symbol i belongs to state i mod L. A state is an integer from 2^16 to 2^32 - 1. Bits that do not fit a state are written
as words of 16 bits. The stream is the L states as uint32, then the words in the order of decoding, all little-endian.

Two coders write and read the same stream: `native`, a library in C, and `numpy`, where that library was not built.
"""

from fovea.wire.rans.coders import available_coders, coder_name, decode, encode, using_coder
from fovea.wire.rans.stream import TOTAL, num_states
from fovea.wire.rans.tables import FrequencyTables

__all__ = [
    "TOTAL",
    "FrequencyTables",
    "available_coders",
    "coder_name",
    "decode",
    "encode",
    "num_states",
    "using_coder",
]
