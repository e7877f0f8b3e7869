"""Pruners by name: those of a service, and those that other installed packages declare as entry points."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol, TypeVar

from fovea.pruner_spec import PrunerSpec

__all__ = ["PluginError", "PrunerRegistry"]

log = logging.getLogger(__name__)


class PluginError(ValueError):
    """A pruner of another package that cannot be used. The message is one sentence for the operator, without paths."""


class _Described(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def spec(self) -> PrunerSpec: ...


Method = TypeVar("Method", bound=_Described)


class PrunerRegistry(Mapping[str, Method]):
    """Pruners of one side by name, in order: the built-in ones, then those of other packages by entry point.

    Other packages are imported when a name that is not built-in is looked up, when the names are iterated over, and by
    `load`. They import the module of the registry themselves, so its own import is too early.

    Args:
        built_in: pruners of the service.
        group: group of the entry points, each of which names a pruner.
        kind: class of the pruners.
        side: the service in messages ("encoder service").
    """

    def __init__(self, built_in: Iterable[Method], *, group: str, kind: type[Method], side: str) -> None:
        self._built_in = {pruner.name: pruner for pruner in built_in}
        self._group = group
        self._kind = kind
        self._side = side
        self._fingerprint = ""
        self._all: dict[str, Method] | None = None

    def __getitem__(self, name: str) -> Method:
        return self._built_in[name] if name in self._built_in else self.load()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.load())

    def __len__(self) -> int:
        return len(self.load())

    @property
    def fingerprint(self) -> str:
        """16 hex digits of the names and versions of other packages with pruners, which change results; "" for none."""
        self.load()
        return self._fingerprint

    def load(self) -> Mapping[str, Method]:
        """All pruners by name; the first call imports the other packages.

        Raises:
            PluginError: a package cannot be imported, what its entry point names is not a pruner of this side, or the
                name is taken.
        """
        if self._all is None:
            pruners, packages = dict(self._built_in), set[tuple[str, str]]()
            for entry_point in sorted(entry_points(group=self._group), key=_source):
                pruner = self._pruner_of(entry_point)
                if pruner.name in pruners:
                    raise _error(entry_point, f"declares a pruner named {pruner.name!r}, which exists already")
                pruners[pruner.name] = pruner
                packages.add(_distribution(entry_point))
                log.info("pruner %r is that of %s", pruner.name, _source(entry_point))
            if packages:
                self._fingerprint = hashlib.sha256(repr(sorted(packages)).encode()).hexdigest()[:16]
            self._all = pruners
        return self._all

    def _pruner_of(self, entry_point: EntryPoint) -> Method:
        try:
            pruner = entry_point.load()
        except Exception as error:  # whatever the code of another package raises
            log.debug("%s cannot be imported", _source(entry_point), exc_info=error)
            raise _error(entry_point, f"cannot be imported: {_reason(error)}") from error
        if not isinstance(pruner, self._kind):
            raise _error(entry_point, f"does not name a pruner of the {self._side}")
        try:
            name: object = pruner.spec.name
        except Exception as error:
            raise _error(entry_point, "names a pruner whose parameters are not declared") from error
        if not isinstance(name, str) or not name:
            raise _error(entry_point, "names a pruner without a name")
        return pruner


def _distribution(entry_point: EntryPoint) -> tuple[str, str]:
    """Name and version of the package that declares an entry point."""
    return ("unknown", "") if entry_point.dist is None else (entry_point.dist.name, entry_point.dist.version)


def _source(entry_point: EntryPoint) -> str:
    name, _ = _distribution(entry_point)
    return f"the package {name!r} (entry point {entry_point.name!r} of {entry_point.group})"


def _error(entry_point: EntryPoint, what: str) -> PluginError:
    return PluginError(f"{_source(entry_point)} {what}")


def _reason(error: Exception) -> str:
    """Reason of a failed import, in place of Python's own, which has paths."""
    if isinstance(error, ModuleNotFoundError):
        return f"there is no module {error.name!r}"
    if isinstance(error, AttributeError):
        return "its module does not hold the object"
    if isinstance(error, ImportError):
        return "one of its imports fails"
    return "its code fails"
