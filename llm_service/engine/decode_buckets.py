"""Sizes of decoding steps: slots and attended positions.

On a GPU there are few sizes, so that views and masks recur. A CPU gains nothing by slots that are not in use, and
little by recurring lengths.
"""

from __future__ import annotations

from typing import Final

__all__ = ["attended_length", "num_rows"]

_SHORTEST: Final = 64
_FINE: Final = 16


def attended_length(num_positions: int, slot_length: int, *, few: bool) -> int:
    """Positions that a step attends over, at most a whole slot.

    Args:
        num_positions: Positions of the longest sequence, the new token included.
        slot_length: Positions of a slot.
        few: Whether to round up to few sizes, 64, 96, 128, 192, 256, 384 and so on, instead of to a multiple of 16.
    """
    if not few:
        return min(slot_length, -(-num_positions // _FINE) * _FINE)
    power = _SHORTEST
    while power * 3 // 2 < num_positions:
        power *= 2
    return min(slot_length, power if num_positions <= power else power * 3 // 2)


def num_rows(highest: int, num_slots: int, *, few: bool) -> int:
    """Slots that a step runs on, from slot 0.

    Args:
        highest: Highest index of a slot in use.
        num_slots: Number of slots.
        few: Whether to round up to a power of two, instead of to the slots in use.
    """
    return min(num_slots, 1 << highest.bit_length()) if few else highest + 1
