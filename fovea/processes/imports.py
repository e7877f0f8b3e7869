"""Imports of packages as large as torch and transformers, without the garbage collector."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

__all__ = ["large_imports"]


@contextlib.contextmanager
def large_imports() -> Iterator[None]:
    """Imports inside run without garbage collection, and later collections leave out all objects that exist by then.

    The modules of torch and transformers make hundreds of thousands of objects, which stay. Collections that look
    through them during the import take a sixth of a GPU service's start, and later ones would pause the service.
    Processes that are forked afterwards share the memory of these objects, as no collection writes to it.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
