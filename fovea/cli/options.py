"""Options of several subcommands."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, Final

from fovea.cli.parsing import CommandParser, written_flag
from fovea.cli.values import api_key, count_or_auto, json_object, number, url
from fovea.client.connection_settings import api_key_or_variable, url_or_variable
from fovea.wire.image_fits import IMAGE_FITS

__all__ = ["BUDGET_SHARE", "add_api_key", "add_gateway", "add_pruning", "shared_fields"]

_FIELDS: Final = ("pruner", "pruner_params", "keep_tokens", "keep_ratio", "image_fit", "cache")

BUDGET_SHARE = number("a number above 0 and at most 1", lambda value: 0 < value <= 1)
_SECONDS = number("a number of seconds above 0", lambda value: 0 < value <= 86_400)


def add_pruning(parser: CommandParser) -> None:
    """Adds the options of the pruner and its budget, and says of a model's name that it has no place here."""
    parser.advice = _about_a_model
    group = parser.add_argument_group("visual tokens that are kept")
    group.add_argument("--pruner", metavar="NAME", help="name from /v1/pruners (default: the gateway's)")
    group.add_argument(
        "--pruner-params", type=json_object, metavar="JSON", help="parameters of the pruner, a JSON object"
    )
    budget = group.add_mutually_exclusive_group()
    budget.add_argument(
        "--keep-tokens",
        type=count_or_auto,
        metavar="N",
        help="visual tokens to keep of each image or video; auto: the pruner decides, where it can",
    )
    budget.add_argument(
        "--keep-ratio", type=BUDGET_SHARE, metavar="SHARE", help="or the share of them, above 0 and up to 1"
    )
    group.add_argument(
        "--image-fit",
        choices=tuple(IMAGE_FITS),
        help="crop: as the model's processor, which may cut the ends of a long image; pad: the whole image on a square",
    )


def _about_a_model(words: Sequence[str], _: argparse.Namespace) -> str:
    if "--model" not in map(written_flag, words):
        return ""
    return "a gateway serves one model, which is not named; --pruner and --keep-tokens choose its pruning"


def add_gateway(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the gateway: address, deadline and caches."""
    group = parser.add_argument_group("gateway")
    group.add_argument(
        "--url",
        type=url,
        default=url_or_variable(None),
        help="address of the gateway; also the variable FOVEA_URL (default: %(default)s)",
    )
    add_api_key(group)
    group.add_argument(
        "--timeout-s", type=_SECONDS, default=60.0, metavar="S", help="deadline of a question, in seconds (default: 60)"
    )
    group.add_argument(
        "--cache",
        choices=("use", "refresh", "bypass"),
        help="use the gateway's caches (default), only fill them, or neither",
    )


def add_api_key(group: argparse._ActionsContainer) -> None:
    """Adds the option of the API key. Neither --help nor an error shows the variable's value."""
    group.add_argument(
        "--api-key",
        type=api_key,
        default=api_key_or_variable(None),
        metavar="KEY",
        help="API key of the gateway; rather the variable FOVEA_API_KEY, since other users see command lines",
    )


def shared_fields(args: argparse.Namespace) -> dict[str, Any]:
    """Fields of the request from these options."""
    return {name: getattr(args, name) for name in _FIELDS}
