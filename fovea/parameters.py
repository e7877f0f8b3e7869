"""Parameters of a pruner, declared as fields of a frozen dataclass with default, check and description."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, TypeVar, cast

__all__ = ["InvalidParameter", "Parameter", "Value", "choice", "declared", "flag", "integer", "number", "parse"]

Value = bool | int | float | str | None
P = TypeVar("P")

_DECLARATION: Final = "parameter"


class InvalidParameter(ValueError):
    """A parameter that does not exist, or whose value is not accepted.

    The message is for the caller, and short, since it is sent in headers.
    """


@dataclass(frozen=True, slots=True)
class Parameter:
    """Parameter of a pruner: an entry of `pruner_params`."""

    __pydantic_config__: ClassVar = {"use_attribute_docstrings": True}  # for the API's schema

    name: str
    """Name of the parameter."""

    type: str
    """Type of the value: `number`, `integer`, `boolean` or `string`; also null if the description says so."""

    default: Value
    """Default value."""

    description: str
    """Accepted values and their effect."""


@dataclass(frozen=True, slots=True)
class _Declaration:
    """What a field of a parameter dataclass declares.

    Attributes:
        type: JSON Schema type.
        description: accepted values and their effect.
        check: function from a client's value to the value to use, or to None for one that is not accepted.
        optional: whether None is accepted too.
    """

    type: str
    description: str
    check: Callable[[object], Value]
    optional: bool


def _declare(
    type_: str, default: Value, description: str, check: Callable[[object], Value], *, optional: bool = False
) -> Any:
    return field(default=default, metadata={_DECLARATION: _Declaration(type_, description, check, optional)})


def _declarations(cls: type[Any]) -> dict[str, _Declaration]:
    return {item.name: item.metadata[_DECLARATION] for item in dataclasses.fields(cls)}


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
    """An integer in [minimum, maximum]; with `optional` also null. 3.0 is accepted as 3: JSON numbers are doubles."""

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
    """Parameters of a parameter dataclass, in order of declaration."""
    defaults = {item.name: cast(Value, item.default) for item in dataclasses.fields(cls)}
    return tuple(
        Parameter(name, item.type, defaults[name], item.description) for name, item in _declarations(cls).items()
    )


def parse(cls: type[P], values: Mapping[str, object]) -> P:
    """Parameters of type `cls` with a client's values; parameters without a value keep their defaults.

    Args:
        cls: dataclass whose fields are declared with `number`, `integer`, `choice` or `flag`.
        values: the client's values by name.

    Raises:
        InvalidParameter: a name is unknown, or a value is not accepted; the message names what is accepted.
    """
    known = _declarations(cls)
    checked: dict[str, Value] = {}
    for name, value in values.items():
        if name not in known:
            accepted = ", ".join(known) if known else "none"
            raise InvalidParameter(f"there is no parameter {name!r:.80}; accepted: {accepted}")
        declaration = known[name]
        if value is None and declaration.optional:
            checked[name] = None
            continue
        result = declaration.check(value)
        if result is None:
            raise InvalidParameter(f"{name} = {value!r:.80} is not accepted: {declaration.description}")
        checked[name] = result
    return cls(**checked)
