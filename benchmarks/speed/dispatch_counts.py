"""Operations that the encoder's engine dispatches for one batch, counted by torch itself while the batch runs.

A GPU executes at least one kernel for most of these operations and waits for the CPU to ask for each. The number does
not depend on the machine, so it can be counted without a GPU.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.overrides import TorchFunctionMode
from torch.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode

from encoder_service.engine.engine import EncoderEngine
from encoder_service.engine.request_media import EncodeRequest, RequestMedia

__all__ = ["Counts", "count_dispatches", "count_operations", "recorded"]

_NAMESPACES: Final = ("aten", "prims")
_COPIES: Final = ("aten.clone.default", "aten.copy_.default")
_READ_TAGS: Final = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
# Composite operations, to which torch gives no tags.
_READ_NAMES: Final = ("aten.is_nonzero.default", "aten.masked_select.default", "aten._local_scalar_dense.default")
_TO_PYTHON: Final = (torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.__array__)


@dataclass(frozen=True)
class Counts:
    """Operations of one batch.

    Attributes:
        operators: Number of calls of each operator, such as `aten.add.Tensor`.
        inner: Number of operations that all calls of an operator outside aten dispatched, by operator.
        reads: Calls whose result or whose shape depends on values. On a GPU each waits for all kernels before it.
        exports: Tensors that became numpy arrays or Python lists. What is computed on those is not counted.
    """

    operators: Mapping[str, int]
    inner: Mapping[str, int]
    reads: int
    exports: int

    @property
    def total(self) -> int:
        """All operations, those inside operators outside aten included."""
        return sum(self.operators.values()) + sum(self.inner.values())

    @property
    def copies(self) -> int:
        """Calls of clone and copy_."""
        return sum(self.operators.get(name, 0) for name in _COPIES)

    @property
    def custom(self) -> dict[str, int]:
        """Number of calls of each operator outside aten and prims: custom operators, C++ and CUDA extensions."""
        return {name: calls for name, calls in self.operators.items() if name.split(".")[0] not in _NAMESPACES}

    @property
    def is_lower_bound(self) -> bool:
        """Whether some operator outside aten ran nothing that torch can see, so that `total` is a lower bound."""
        return any(not self.inner.get(name) for name in self.custom)

    def text(self) -> str:
        """Table cell: "1,565", or "at least 1,565"."""
        return f"{'at least ' if self.is_lower_bound else ''}{self.total:,}"


class _Dispatches(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operators: Counter[str] = Counter()
        self.reads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operators[str(func)] += 1
        self.reads += _reads_values(func, args)
        return func(*args, **(kwargs or {}))


class _Exports(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in _TO_PYTHON
        return func(*args, **(kwargs or {}))


def _reads_values(func: Any, args: Sequence[Any]) -> bool:
    name = str(func)
    if name.startswith(("aten.index.", "aten.index_put")):
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    if name == "aten.one_hot.default":  # reads the largest value, unless the number of classes is given
        return len(args) < 2 or args[1] < 0
    return name in _READ_NAMES or bool(_READ_TAGS & set(func.tags))


def count_operations(run: Callable[[], object]) -> Counts:
    """Operations of one call on this thread, without those inside operators outside aten."""
    dispatches, exports = _Dispatches(), _Exports()
    with _uncompiled(), exports, dispatches:
        run()
    return Counts(dict(dispatches.operators), {}, dispatches.reads, exports.count)


def count_dispatches(engine: EncoderEngine, requests: Sequence[EncodeRequest]) -> Counts:
    """Operations of `EncoderEngine.run` for these requests in one batch, without their decoding.

    Only the calling thread is counted. Compiled functions run as they are written, so their operations are counted as
    if nothing was compiled. If an operator outside aten runs, the batch runs a second time, under torch's profiler,
    which sees what the operator dispatches.

    Raises:
        Exception: The error of the first request that fails.
    """
    prepared = [engine.prepare(request) for request in requests]
    outcomes: list[object] = []
    counts = count_operations(lambda: outcomes.extend(engine.run(prepared)))
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    if not counts.custom:
        return counts
    return Counts(counts.operators, _inner(engine, prepared, tuple(counts.custom)), counts.reads, counts.exports)


@contextlib.contextmanager
def _uncompiled() -> Iterator[None]:
    """Runs functions of torch.compile as they are written. Without torch._dynamo nothing can be compiled."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _inner(engine: EncoderEngine, prepared: Sequence[Sequence[RequestMedia]], names: Sequence[str]) -> dict[str, int]:
    """Operations that the calls of each operator dispatched, by the operator's name."""
    with _uncompiled(), profile() as profiled:
        engine.run(prepared)
    inner: Counter[str] = Counter()
    # The profiler writes `namespace::name`, without the overload.
    by_event = {"::".join(name.split(".")[:2]): name for name in names}
    for event in profiled.events() or ():
        if event.name in by_event:
            children = event.cpu_children
            inner[by_event[event.name]] += sum(child.name.split("::")[0] in _NAMESPACES for child in children)
    return dict(inner)


def recorded(counts: Counts) -> dict[str, Any]:
    """The counts as a result file holds them, without those of each operator."""
    return {
        "total": counts.total,
        "is_lower_bound": counts.is_lower_bound,
        "reads": counts.reads,
        "exports": counts.exports,
        "copies": counts.copies,
        "custom": {name: {"calls": calls, "inner": counts.inner.get(name, 0)} for name, calls in counts.custom.items()},
    }
