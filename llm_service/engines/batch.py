"""Rows that are computed together: they join after a prefill, get a token at a time, and leave."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import torch

from fovea.errors import InternalError, ServiceError
from fovea.telemetry import FAILURES
from llm_service.engines.failures import beyond_numbers, defect, fail, why
from llm_service.engines.row import Row
from llm_service.sampling import sample

__all__ = ["Batch", "Runner"]

log = logging.getLogger(__name__)

X = TypeVar("X")
X_contra = TypeVar("X_contra", contravariant=True)


class Runner(Protocol[X_contra]):
    """The forward passes of a batch, rows in the order of their joining; see `ModelRunner`."""

    def clear(self) -> None: ...

    def prefill(self, newcomers: Sequence[X_contra]) -> torch.Tensor: ...

    def decode(self, token_ids: Sequence[int]) -> torch.Tensor: ...

    def keep(self, rows: Sequence[int]) -> None: ...


class Batch(Generic[X]):
    """Rows and the runner that computes them, kept in step.

    Args:
        runner: Knows tensors.
        prepare: Makes of a row what the runner prefills.
    """

    def __init__(self, runner: Runner[X], prepare: Callable[[Row], X]) -> None:
        self._runner = runner
        self._prepare = prepare
        self._rows: list[Row] = []  # in the order of the runner's

    def __len__(self) -> int:
        return len(self._rows)

    def prefill(self, newcomers: Sequence[Row]) -> None:
        """Takes rows in and gives them their first token.

        A prompt that fails fails alone: neither those who came with it nor those who decode already hear of it.
        """
        for row in newcomers:
            row.admit()
        prepared = [(row, inputs) for row in newcomers if (inputs := self._prepared(row)) is not None]
        if not prepared or (error := self._take_in(prepared)) is None:
            return
        # Outside of any `except`, whose frames would keep the tensors of the attempt alive.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(prepared) == 1:
            fail([prepared[0][0]], error)
            return
        FAILURES.labels("prefill_apart").inc()
        for one in prepared:
            if (error := self._take_in([one])) is not None:
                fail([one[0]], error)

    def _prepared(self, row: Row) -> X | None:
        """What the runner prefills of a row; None for one that has failed."""
        try:
            return self._prepare(row)
        except Exception as error:
            log.exception("prefill of 1 rows failed")
            fail([row], why(error))
            return None

    def _take_in(self, prepared: Sequence[tuple[Row, X]]) -> ServiceError | None:
        """Prefills rows together and gives them their first token; what failed, if their prefill did."""
        rows = [row for row, _ in prepared]
        try:
            logits = self._runner.prefill([inputs for _, inputs in prepared])
        except Exception as error:
            log.exception("prefill of %d rows failed", len(prepared))
            return why(error)
        self._rows += rows
        for row, row_logits in zip(rows, logits, strict=True):
            if row.request.first_token_logprobs:
                row.first_token_logprobs = torch.log_softmax(row_logits, dim=-1).tolist()
        _accept(rows, logits)
        self.drop_departed()
        return None

    def decode(self) -> None:
        """Gives every row its next token."""
        if self._rows:
            _accept(self._rows, self._runner.decode([row.token_ids[-1] for row in self._rows]))
            self.drop_departed()

    def drop_departed(self) -> None:
        """Rows that have ended, and those whose caller has left, make room."""
        running = [i for i, row in enumerate(self._rows) if not row.ended]
        staying = [i for i in running if not self._rows[i].departed]
        FAILURES.labels("generation_abandoned").inc(len(running) - len(staying))
        if len(staying) < len(self._rows):
            self._runner.keep(staying)
            self._rows = [self._rows[i] for i in staying]

    def fail(self, error: ServiceError | None = None) -> None:
        """Ends all rows with an error, by default that of a defect, and forgets them."""
        fail(self._rows, error or defect())
        self._rows = []
        self._runner.clear()


def _accept(rows: Sequence[Row], logits: torch.Tensor) -> None:
    """Gives each row its next token.

    Args:
        rows: B of them.
        logits: [B, V].
    """
    finite = logits.isfinite().all(dim=-1).tolist()
    largest = logits.argmax(dim=-1).tolist()
    for i, row in enumerate(rows):
        sampling = row.request.sampling
        if not finite[i]:
            fail([row], _not_finite(row))
            continue
        try:
            row.accept(largest[i] if sampling.temperature == 0 else sample(logits[i], sampling, row.generator))
        except Exception as error:
            log.exception("the next token of a row failed")
            fail([row], why(error))


def _not_finite(row: Row) -> ServiceError:
    if row.request.prompt.visual_tokens:
        return beyond_numbers()
    return InternalError("the model produced numbers that are not finite")
