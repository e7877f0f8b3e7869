"""Parameters of a pruner, declared once as fields of a frozen dataclass: default, check and description together."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, cast

__all__ = ["InvalidParameter", "Parameter", "Value", "choice", "declared", "flag", "integer", "number", "parse"]

Value = bool | int | float | str | None
P = TypeVar("P")

_SPEC: Final = "parameter"


class InvalidParameter(ValueError):
    """A parameter that does not exist, or holds what is not accepted. The message is for the caller, and short: it
    travels in headers.
    """


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter as clients see it.

    Attributes:
        name: As clients write it.
        type: number, integer, boolean or string, as JSON Schema calls them.
        default: Of that type, or None where `optional`.
        description: Values accepted and what they do.
        check: The value to use, or None for one that is not accepted.
        optional: None is accepted too.
    """

    name: str
    type: str
    default: Value
    description: str
    check: Callable[[object], Value]
    optional: bool = False


def _declare(
    type_: str, default: Value, description: str, check: Callable[[object], Value], *, optional: bool = False
) -> Any:
    return field(default=default, metadata={_SPEC: Parameter("", type_, default, description, check, optional)})


def number(
    default: float | None,
    *,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    description: str,
    optional: bool = False,
) -> Any:
    """A finite number in [minimum, maximum]; with `optional` also null."""

    def check(value: object) -> Value:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return None
        return float(value) if minimum <= value <= maximum else None

    return _declare("number", default, description, check, optional=optional)


def integer(default: int | None, *, minimum: int, maximum: int, description: str, optional: bool = False) -> Any:
    """A whole number in [minimum, maximum]; with `optional` also null. JSON knows only doubles, so 3.0 is 3."""

    def check(value: object) -> Value:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return None
        return int(value) if value == int(value) and minimum <= value <= maximum else None

    return _declare("integer", default, description, check, optional=optional)


def choice(default: str, options: tuple[str, ...], *, description: str) -> Any:
    """One of `options`."""

    def check(value: object) -> Value:
        return value if isinstance(value, str) and value in options else None

    return _declare("string", default, description, check)


def flag(default: bool, *, description: str) -> Any:
    """true or false."""

    def check(value: object) -> Value:
        return value if isinstance(value, bool) else None

    return _declare("boolean", default, description, check)


def declared(cls: type[Any]) -> tuple[Parameter, ...]:
    """The parameters of a parameter dataclass, in order of declaration."""
    return tuple(
        dataclasses.replace(cast(Parameter, item.metadata[_SPEC]), name=item.name) for item in dataclasses.fields(cls)
    )


def parse(cls: type[P], values: Mapping[str, object]) -> P:
    """Parameters of type `cls` from what a client sent; those left out keep their defaults.

    Raises:
        InvalidParameter: An unknown name or a value that is not accepted; says what is.
    """
    known = {item.name: item for item in declared(cls)}
    checked: dict[str, Value] = {}
    for name, value in values.items():
        if name not in known:
            accepted = ", ".join(known) if known else "none"
            raise InvalidParameter(f"there is no parameter {name!r:.80}; accepted: {accepted}")
        spec = known[name]
        if value is None and spec.optional:
            checked[name] = None
            continue
        result = spec.check(value)
        if result is None:
            raise InvalidParameter(f"{name} = {value!r:.80} is not accepted: {spec.description}")
        checked[name] = result
    return cls(**checked)
