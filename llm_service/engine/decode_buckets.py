"""Sizes of decoding steps: slots and attended positions.

On a GPU there are few sizes, so that views, masks and CUDA graphs recur. A CPU gains nothing by slots that are not in
use, and little by recurring lengths.
"""

from __future__ import annotations

from typing import Final

__all__ = ["attended_length", "attended_lengths", "num_step_slots", "step_slot_counts"]

_SHORTEST: Final = 128
_FINE: Final = 16


def attended_length(num_positions: int, slot_length: int, *, few: bool) -> int:
    """Positions that a step attends over, at most a whole slot.

    Args:
        num_positions: Positions of the longest sequence, the new token included.
        slot_length: Positions of a slot.
        few: Whether to round up to few sizes, 128, 192, 256, 384, 512 and so on, instead of to a multiple of 16.
    """
    if not few:
        return min(slot_length, -(-num_positions // _FINE) * _FINE)
    power = _SHORTEST
    while power * 3 // 2 < num_positions:
        power *= 2
    return min(slot_length, power if num_positions <= power else power * 3 // 2)


def attended_lengths(slot_length: int) -> list[int]:
    """The few sizes of `attended_length` for slots of one length, ascending."""
    lengths = [attended_length(1, slot_length, few=True)]
    while lengths[-1] < slot_length:
        lengths.append(attended_length(lengths[-1] + 1, slot_length, few=True))
    return lengths


def num_step_slots(highest: int, num_slots: int, *, few: bool) -> int:
    """Slots that a step runs on, from slot 0.

    Args:
        highest: Highest index of a slot in use.
        num_slots: Number of slots.
        few: Whether to round up to a power of two, instead of to the slots in use.
    """
    return min(num_slots, 1 << highest.bit_length()) if few else highest + 1


def step_slot_counts(num_slots: int) -> list[int]:
    """The few sizes of `num_step_slots`, ascending."""
    return sorted({num_step_slots(highest, num_slots, few=True) for highest in range(num_slots)})
