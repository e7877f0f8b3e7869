"""Slots of the key-value cache: their length classes, and which of them are free. Depends on no tensor.

A slot holds the keys and values of one sequence. On a GPU its memory is allocated at start, so an admitted sequence
never lacks it. On a CPU the system provides it at first use, and start only checks that it is free.
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["Slot", "SlotAdmission", "SlotClass", "SlotPool", "divide_positions"]

# The whole context is one more class. A prompt of 64 visual tokens and its answer fit into 256 positions, one of 576
# into 1,024.
_LENGTHS: Final = (256, 1024)


@dataclass(frozen=True)
class SlotClass:
    """Slots of one length.

    Attributes:
        length: Positions of a slot, prompt and answer together.
        count: Number of slots.
    """

    length: int
    count: int


@dataclass(frozen=True)
class Slot:
    """One slot.

    Attributes:
        class_index: Index of its class, from the shortest.
        index: Index among the slots of the class.
    """

    class_index: int
    index: int


def divide_positions(positions: int, max_model_len: int, max_sequences: int) -> tuple[SlotClass, ...]:
    """Divides the positions of a cache into slots.

    The longest slot holds the whole context, or all positions if there are fewer. One such slot is set aside first.
    Each class may then take an equal share of the rest, at most one slot for each sequence. What it leaves unused goes
    to the longer classes.

    Args:
        positions: Positions that the memory holds, at least 1.
        max_model_len: Positions of the context.
        max_sequences: Most running sequences.

    Returns:
        Classes in ascending order of length, each with at least one slot.
    """
    longest = min(max_model_len, positions)
    lengths = [*(length for length in _LENGTHS if length < longest), longest]
    rest = positions - longest
    classes = []
    for i, length in enumerate(lengths):
        set_aside = int(length == longest)
        count = min(max_sequences - set_aside, rest // (len(lengths) - i) // length)
        rest -= count * length
        classes.append(SlotClass(length, count + set_aside))
    return tuple(slot_class for slot_class in classes if slot_class.count)


class SlotPool:
    """The free slots of each class. Used by the model thread alone, except for what is only read.

    Args:
        classes: Classes in ascending order of length.

    Attributes:
        longest: Positions of the longest slot.
        num_positions: Positions of all slots together.
    """

    def __init__(self, classes: Sequence[SlotClass]) -> None:
        self._lengths = [slot_class.length for slot_class in classes]
        self.num_positions = sum(slot_class.length * slot_class.count for slot_class in classes)
        self._free = [list(range(slot_class.count)) for slot_class in classes]  # heaps
        self.longest = self._lengths[-1]

    @property
    def num_taken(self) -> int:
        """Positions of the slots that are not free. Thread-safe."""
        free = sum(length * len(slots) for length, slots in zip(self._lengths, self._free, strict=True))
        return self.num_positions - free

    def class_of(self, num_positions: int) -> int:
        """Index of the shortest class that holds `num_positions`; the number of classes if none does."""
        return bisect.bisect_left(self._lengths, num_positions)

    def take(self, num_positions: int, *, below: int) -> Slot | None:
        """Takes the lowest free slot of the shortest class that holds `num_positions` and has one.

        Args:
            num_positions: Positions of prompt and answer.
            below: Index of the first class that may not be used.

        Returns:
            The slot, or None if no such class has a free one.
        """
        for class_index in range(self.class_of(num_positions), min(below, len(self._free))):
            if self._free[class_index]:
                return Slot(class_index, heapq.heappop(self._free[class_index]))
        return None

    def release(self, slot: Slot) -> None:
        """Makes a slot free again."""
        heapq.heappush(self._free[slot.class_index], slot.index)


class SlotAdmission:
    """One round of admissions in order of arrival.

    A sequence for which no slot is free waits, and later ones may only take slots that it could not use. Short
    sequences thus pass a long one without delaying it.

    Args:
        pool: Free slots.
    """

    def __init__(self, pool: SlotPool) -> None:
        self._pool = pool
        self._below = pool.class_of(pool.longest) + 1

    def take(self, num_positions: int) -> Slot | None:
        """A slot for the next sequence in order of arrival, or None if it waits."""
        slot = self._pool.take(num_positions, below=self._below)
        if slot is None:
            self._below = min(self._below, self._pool.class_of(num_positions))
        return slot
