"""Budgets in messages: the oneof `budget` of `EncodeRequest` and `LlmPruner`."""

from __future__ import annotations

from typing import TypeAlias

from fovea.budget import Budget, InvalidBudget
from fovea.errors import InvalidRequest
from fovea.v1 import encoder_pb2, llm_pb2

__all__ = ["read_budget", "write_budget"]

_Message: TypeAlias = encoder_pb2.EncodeRequest | llm_pb2.LlmPruner


def read_budget(message: _Message, *, path: str = "") -> Budget | None:
    """Budget in a message; None if its oneof `budget` is unset, or is `keep_auto` with the value false.

    Args:
        message: Message with a oneof `budget` of `keep_tokens`, `keep_ratio` and possibly `keep_auto`.
        path: Prefix of the fields that an error names, such as `llm_pruner.`.

    Raises:
        InvalidRequest: The count or the ratio is out of its range; `param` is its field.
    """
    try:
        match message.WhichOneof("budget"):
            case "keep_tokens":
                return Budget.count(message.keep_tokens)
            case "keep_ratio":
                return Budget.ratio(message.keep_ratio)
            case "keep_auto" if isinstance(message, encoder_pb2.EncodeRequest) and message.keep_auto:
                return Budget.auto()
    except InvalidBudget as error:
        raise InvalidRequest(str(error), param=path + error.field) from error
    return None


def write_budget(budget: Budget, message: _Message) -> None:
    """Sets the oneof `budget` of a message. The upper bound `max_tokens` has no field and is not sent.

    Args:
        budget: Budget to send.
        message: Message with a oneof `budget` of `keep_tokens`, `keep_ratio` and possibly `keep_auto`.

    Raises:
        ValueError: The budget is auto, and the message has no `keep_auto`.
    """
    if budget.keep_tokens is not None:
        message.keep_tokens = budget.keep_tokens
    elif budget.keep_ratio is not None:
        message.keep_ratio = budget.keep_ratio
    elif isinstance(message, encoder_pb2.EncodeRequest):
        message.keep_auto = True
    else:
        raise ValueError(f"{message.DESCRIPTOR.name} has no auto budget; a count or a ratio is accepted")
