"""Operations that torch dispatches for a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Operations(TorchDispatchMode):
    """Names of the operations that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@torch.inference_mode()
def operations_of(run: Callable[[], object]) -> list[str]:
    """Names of the operations, such as `aten.add.Tensor`, that `run` dispatches without autograd."""
    with Operations() as operations:
        run()
    return operations.names
