"""Sizes of decoding steps: rows and attended positions, in few steps of size, so that shapes recur."""

from __future__ import annotations

from typing import Final

__all__ = ["attended_length", "num_rows"]

_SHORTEST: Final = 64


def attended_length(num_positions: int, slot_length: int) -> int:
    """Positions that a step attends over: the next of 64, 96, 128, 192, 256, 384, ..., at most a whole slot.

    Args:
        num_positions: Positions of the longest sequence, the new token included.
        slot_length: Positions of a slot.
    """
    power = _SHORTEST
    while power * 3 // 2 < num_positions:
        power *= 2
    return min(slot_length, power if num_positions <= power else power * 3 // 2)


def num_rows(highest: int, num_slots: int) -> int:
    """Slots that a step runs on, from slot 0: the next power of two, at most all.

    Args:
        highest: Highest index of a slot in use.
        num_slots: Number of slots.
    """
    return min(num_slots, 1 << highest.bit_length())
