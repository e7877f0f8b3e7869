"""Errors of a batch, kept to the items that cause them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from fovea.telemetry import FailureKind, count_failure

__all__ = ["all_or_error", "retry_individually"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def retry_individually(
    compute: Callable[[Sequence[Item]], Sequence[Result]], items: Sequence[Item]
) -> list[Result | Exception]:
    """`compute(items)`. If it fails, each item is computed by itself, so that only a faulty item has an error."""
    if not items:
        return []
    try:
        return list(compute(items))
    except Exception as error:
        if len(items) == 1:
            return [error]
    # Here the error is gone, and with it the tensors that its traceback kept: memory may have been short.
    count_failure(FailureKind.BATCH_SPLIT)
    return [outcome for item in items for outcome in retry_individually(compute, [item])]


def all_or_error(outcomes: Sequence[Result | Exception]) -> list[Result] | Exception:
    """The results, or the first error among them."""
    results: list[Result] = []
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            return outcome
        results.append(outcome)
    return results
